"""A few segments to look at and listen to: spectrogram, transcript, tags, and their sound from the source."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import duckdb
import numpy as np

from pipelines.errors import PhonolakeError
from pipelines.page.figures import Figure, quoted
from pipelines.page.pictures import picture
from pipelines.page.sound import Silent, Span, heard, reading_of
from pipelines.runs import load_plan
from pipelines.store import Store
from schemas.records import Plan
from workers.stores import ReadingStopped

MOST_SECONDS: Final = 20.0  # of a clip; a longer segment is heard in part
DEEPEST_SECONDS: Final = 900  # into a recording; what lies deeper takes long to decode up to
SOUND_BYTES: Final = 2 << 20  # of all clips together
KINDS: Final = ("log_mel", "power", "mfcc")  # which is shown, best first

CHOSEN: Final = f"""\
WITH able AS (
    SELECT s.corpus, s.recording_id, s.segment_id, s.start_seconds, s.end_seconds, s.channel, r.uri, r.run_id,
        t.model, t.language, t.text,
        coalesce(list_has_any(t.flags, ['hallucination', 'loop', 'no_speech']), false) AS odd
    FROM current_segments s JOIN current_recordings r USING (corpus_id, recording_id)
    LEFT JOIN current_transcripts t USING (corpus_id, recording_id, segment_id)
    WHERE s.start_seconds < {DEEPEST_SECONDS} AND s.end_seconds > s.start_seconds
),
turns AS (
    SELECT *, row_number() OVER (
        PARTITION BY corpus, language
        ORDER BY odd, end_seconds - start_seconds NOT BETWEEN 2 AND {MOST_SECONDS:.0f}, segment_id, model
    ) AS turn
    FROM able QUALIFY row_number() OVER (PARTITION BY corpus, segment_id ORDER BY model) = 1
)
SELECT corpus, recording_id, segment_id, start_seconds, end_seconds, channel, uri, run_id, model, language, text
FROM turns ORDER BY turn, corpus, language, segment_id LIMIT {{limit}}"""

_TAGS: Final = """\
SELECT segment_id, list(label ORDER BY score DESC)[:3] AS labels FROM tags
WHERE recording_id IN ({recordings}) AND segment_id IN ({segments}) AND score >= 0.2 GROUP BY ALL"""

_SPECTROGRAMS: Final = """\
SELECT segment_id, kind, n_frames, n_bins, values FROM spectrograms
WHERE recording_id IN ({recordings}) AND segment_id IN ({segments}) AND n_frames > 0"""


@dataclass(frozen=True, slots=True)
class Clip:
    """One segment; `picture` and `sound` are data URIs, and `silence` says why there is no sound."""

    segment_id: str
    corpus: str
    uri: str
    start_seconds: float
    end_seconds: float
    language: str | None
    text: str | None
    model: str | None
    tags: tuple[str, ...] = ()
    picture: str | None = None
    sound: str | None = None
    silence: str | None = None


def chosen(limit: int) -> Figure:
    """Return the query that chooses the clips: in turn of each corpus and language, by id, which is as good as any."""
    return Figure("clips", "To look at and listen to", CHOSEN.format(limit=limit))


def clips(
    store: Store, connection: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]], *, sound: bool
) -> list[Clip]:
    """Return the chosen segments with what the lake and their sources have of them."""
    if not rows:
        return []
    names = {
        "recordings": ", ".join(quoted(row["recording_id"]) for row in rows),
        "segments": ", ".join(quoted(row["segment_id"]) for row in rows),
    }
    tags = dict(connection.sql(_TAGS.format(**names)).fetchall())
    pictures = _pictures(connection.sql(_SPECTROGRAMS.format(**names)).to_arrow_table().to_pylist())
    found = [_clip(row, tags.get(row["segment_id"]) or (), pictures.get(row["segment_id"])) for row in rows]
    return _with_sound(store, found, rows) if sound else found


def _clip(row: dict[str, Any], tags: Iterable[str], shown: str | None) -> Clip:
    kept = ("segment_id", "corpus", "uri", "start_seconds", "end_seconds", "language", "text", "model")
    return Clip(**{name: row[name] for name in kept}, tags=tuple(tags), picture=shown)


def _pictures(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return a picture of each segment, of the best kind there is."""
    best: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: KINDS.index(row["kind"]) if row["kind"] in KINDS else len(KINDS)):
        best.setdefault(row["segment_id"], row)
    found = {}
    for segment, row in best.items():
        values = np.asarray(row["values"], np.float32).reshape(row["n_frames"], row["n_bins"])
        found[segment] = _data_uri("image/png", picture(values, row["kind"]))
    return found


def _with_sound(store: Store, found: list[Clip], rows: list[dict[str, Any]]) -> list[Clip]:
    """Add what can be heard; whatever a source says, a report is made."""
    left, done = SOUND_BYTES, []
    plans: dict[tuple[str, str], Plan] = {}
    for clip, row in zip(found, rows, strict=True):
        try:
            encoded = _heard(store, row, plans)
            if len(encoded) > left:
                raise Silent("the page would grow too big")
            left -= len(encoded)
            done.append(replace(clip, sound=_data_uri("audio/ogg", encoded)))
        except (Silent, PhonolakeError, ReadingStopped, OSError, ValueError) as error:
            done.append(replace(clip, silence=" ".join(str(error).split())[:300]))
    return done


def _heard(store: Store, row: dict[str, Any], plans: dict[tuple[str, str], Plan]) -> bytes:
    run = (row["corpus"], row["run_id"])
    if run not in plans:
        plans[run] = load_plan(store, *run)
    plan = plans[run]
    end = min(row["end_seconds"], row["start_seconds"] + MOST_SECONDS)
    return heard(
        _planned(store, plan, row["recording_id"]),
        reading_of(plan.recipe),
        Span(row["start_seconds"], end, row["channel"]),
    )


def _planned(store: Store, plan: Plan, recording: str) -> dict[str, Any]:
    """Return a recording's row of its plan; only its row group is read."""
    import pyarrow.parquet as pq

    read = lambda file: pq.read_table(file, filters=[("recording_id", "=", recording)])  # noqa: E731
    rows: list[dict[str, Any]] = store.read_parts(plan.recordings_file, read).to_pylist()
    if not rows:
        raise Silent("the plan of its run does not name it")
    return rows[0]


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
