"""The figures of a report: each one query that anybody can ask again with phonolake query."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb

from pipelines.page.ground import Ground

RUNS_SHOWN: Final = 30
LABELS_SHOWN: Final = 12
LEVEL_SEGMENTS: Final = 300
LEVEL_STEP_DB: Final = 2
SCORE: Final = 0.5  # a label at this score or more is counted
MOST_NIGHTS: Final = 45  # columns of a chart before nights are gathered to weeks, and weeks to months
DURATION_EDGES: Final = (0, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400)
SEGMENT_EDGES: Final = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 60, 300)


@dataclass(frozen=True, slots=True)
class Figure:
    """A name for programs, a title for people, and the query that gives its rows."""

    name: str
    title: str
    sql: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A figure with the rows that its query gave."""

    figure: Figure
    rows: list[dict[str, Any]]


def ask(connection: duckdb.DuckDBPyConnection, figures: Sequence[Figure]) -> dict[str, Answer]:
    """Answer every figure, by name."""
    return {figure.name: Answer(figure, _rows(connection, figure.sql)) for figure in figures}


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = connection.sql(sql).to_arrow_table().to_pylist()
    return rows


def period(nights: int) -> str:
    """Return what one column of a chart over nights stands for."""
    return "day" if nights <= MOST_NIGHTS else "week" if nights <= 7 * MOST_NIGHTS else "month"


def figures(ground: Ground, nights_by: str, level: "LevelGround | None") -> list[Figure]:
    """Return the figures of a lake."""
    found = [
        Figure("totals", "Totals", _TOTALS),
        Figure("corpora", "Corpora", _CORPORA),
        Figure("nights", "Nights", _NIGHTS.format(seals=ground.seals, unit=nights_by)),
        Figure("durations", "Length of recordings", _histogram("decoded_seconds", "recordings", DURATION_EDGES)),
        Figure("segments", "Length of segments", _histogram("end_seconds - start_seconds", "segments", SEGMENT_EDGES)),
        Figure("languages", "Languages", _LANGUAGES),
        Figure("tags", "Tags", _TAGS),
        Figure("doubts", "Doubtful transcripts", _DOUBTS),
        Figure("failures", "Failures", _FAILURES),
        Figure("runs", "Runs", _RUNS.format(seals=ground.seals, records=ground.records)),
        Figure("stages", "Where time went", _STAGES.format(records=ground.records)),
        Figure("tables", "Tables", _TABLES.format(seals=ground.seals)),
    ]
    return found if level is None else [*found, Figure("levels", "Level", level.sql())]


@dataclass(frozen=True, slots=True)
class LevelGround:
    """Where levels are read: the log-mel spectrograms of one corpus and day, and what each band of them counts for."""

    corpus: str
    day: str
    weights: tuple[float, ...]

    def sql(self) -> str:
        """Return the query; ids are hashes, so the first segments are any segments."""
        weights = ", ".join(f"{weight:.3g}" for weight in self.weights)
        return _LEVELS.format(
            corpus=quoted(self.corpus), day=quoted(self.day), weights=weights, limit=LEVEL_SEGMENTS, step=LEVEL_STEP_DB
        )


def quoted(text: str) -> str:
    """Return a text as SQL's literal: what a lake of strangers holds must not become SQL."""
    return "'" + text.replace("'", "''") + "'"


def _histogram(value: str, table: str, edges: Sequence[float]) -> str:
    listed = ", ".join(str(edge) for edge in edges)
    return (
        f"SELECT list_max(list_filter([{listed}], lambda edge: edge <= {value})) AS from_seconds, count(*) AS {table}, "
        f"sum({value}) / 3600 AS hours\nFROM current_{table} WHERE {value} >= 0 GROUP BY ALL ORDER BY ALL"
    )


_TOTALS: Final = """\
SELECT (SELECT count(*) FROM current_recordings) AS recordings,
    (SELECT coalesce(sum(decoded_seconds), 0) / 3600 FROM current_recordings) AS hours,
    (SELECT sum(speech_seconds) / 3600 FROM current_recordings) AS speech_hours,
    (SELECT count(*) FROM current_recordings WHERE status = 'partial') AS partial_recordings,
    (SELECT count(*) FROM current_segments) AS segments,
    (SELECT count(*) FROM current_failures WHERE segment_id IS NULL) AS failed_recordings,
    (SELECT count(*) FROM current_failures WHERE segment_id IS NOT NULL) AS failed_segments"""

_CORPORA: Final = """\
SELECT corpus, count(*) AS recordings, sum(decoded_seconds) / 3600 AS hours, sum(speech_seconds) / 3600 AS speech_hours,
    count(*) FILTER (status = 'partial') AS partial_recordings, min(dt) AS first_night, max(dt) AS last_night
FROM current_recordings GROUP BY ALL ORDER BY hours DESC, corpus"""

_NIGHTS: Final = """\
SELECT date_trunc('{unit}', planned_at)::DATE AS night, corpus, count(*) AS runs, sum(audio_seconds) / 3600 AS hours,
    sum(ok)::BIGINT AS ok, sum(partial)::BIGINT AS partial, sum(failed)::BIGINT AS failed
FROM {seals} GROUP BY ALL ORDER BY night, corpus"""

_LANGUAGES: Final = """\
SELECT t.model, coalesce(t.language, 'unknown') AS language, count(*) AS segments,
    sum(s.end_seconds - s.start_seconds) / 3600 AS hours, avg(t.language_probability) AS mean_probability
FROM current_transcripts t JOIN current_segments s USING (corpus_id, recording_id, segment_id)
GROUP BY ALL ORDER BY model, hours DESC, language"""

_TAGS: Final = f"""\
SELECT model, label, count(*) AS segments, avg(score) AS mean_score
FROM current_tags WHERE score >= {SCORE} GROUP BY ALL ORDER BY segments DESC, model, label LIMIT {LABELS_SHOWN}"""

_DOUBTS: Final = """\
WITH each_flag AS (SELECT model, unnest(flags) AS flag FROM current_transcripts)
SELECT model, flag, count(*) AS segments FROM each_flag GROUP BY ALL ORDER BY segments DESC, model, flag"""

_FAILURES: Final = """\
SELECT stage, code, count(*) AS failures, bool_or(transient) AS may_pass, min(uri, 3) AS examples,
    arg_min(message, uri, 3) AS messages
FROM current_failures GROUP BY ALL ORDER BY failures DESC, stage, code"""

_RUNS: Final = f"""\
WITH took AS (
    SELECT corpus, run, list_sum([one.seconds for one in attempts]) AS attempt_seconds,
        list_sum([one.seconds * one.cpus for one in attempts]) / 3600 AS core_hours,
        list_sum([one.seconds * one.gpus for one in attempts]) / 3600 AS gpu_hours
    FROM {{records}}
)
SELECT corpus, run, planned_at, epoch(sealed_at - planned_at)::DOUBLE AS seconds, attempts, recordings, failed,
    audio_seconds / 3600 AS hours, audio_seconds / greatest(1, epoch(sealed_at - planned_at)) AS times_real_time,
    attempt_seconds, core_hours, gpu_hours
FROM {{seals}} LEFT JOIN took USING (corpus, run) ORDER BY planned_at DESC, corpus LIMIT {RUNS_SHOWN}"""

_STAGES: Final = f"""\
WITH latest AS (SELECT attempts FROM {{records}} ORDER BY planned_at DESC LIMIT {RUNS_SHOWN}),
each_attempt AS (SELECT unnest(attempts) AS one FROM latest),
parts AS (SELECT unnest(map_entries(one.stage_seconds)) AS part FROM each_attempt)
SELECT part.key AS stage, sum(part.value) AS seconds FROM parts GROUP BY ALL ORDER BY seconds DESC, stage"""

_TABLES: Final = """\
WITH files AS (SELECT unnest(files) AS file FROM {seals})
SELECT file.table AS name, count(*) AS files, sum(file.rows)::BIGINT AS rows, sum(file.size_bytes)::BIGINT AS size_bytes
FROM files GROUP BY ALL ORDER BY size_bytes DESC, name"""

_LEVELS: Final = """\
WITH chosen AS (
    SELECT n_frames, n_bins, values FROM spectrograms
    WHERE kind = 'log_mel' AND corpus = {corpus} AND dt = DATE {day} AND n_frames > 0 LIMIT {limit}
),
powers AS (
    SELECT list_sum(list_transform(values,
        lambda value, place: exp(value) * ([{weights}])[(place - 1) % n_bins + 1])) / n_frames AS mean_square
    FROM chosen
)
SELECT (floor(10 * log10(greatest(mean_square, 1e-9)) / {step}) * {step})::INTEGER AS from_db, count(*) AS segments
FROM powers GROUP BY ALL ORDER BY ALL"""
