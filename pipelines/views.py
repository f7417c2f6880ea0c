"""The views `current_<table>`: of the append-only tables, what counts now, in SQL that every warehouse takes.

A changed object is a new recording under the same uri, and what is computed again is a later run's rows under the same
ids. So of each uri the latest version counts: the recording of the last run that decoded it or failed to. Its last row
in `recordings` is its *base run*: segments count from that run alone, and of what was computed on them the last run
from there on. A failure on a segment counts until a later run has rows of that stage there; a whole recording's until
a later run got as far as its segments again.

The text keeps to what DuckDB, Spark, BigQuery, Snowflake, Trino and Postgres all take, and finds the keys first and the
rows after, so that no vector or spectrogram is ever sorted. `python -m pipelines.views` prints it.
"""

from typing import Final

from schemas.tables import TABLES, leading_key

HEADER: Final = """\
-- The views current_<table> of a Phonolake lake: of every uri the latest version, of that what was computed last.
-- Made by `python -m pipelines.views > deploy/sql/current_views.sql`; what they mean stands in pipelines/views.py.
--
-- Assumed: the lake's eight tables are registered under their names (recordings, segments, spectrograms, embeddings,
-- transcripts, tags, clips, failures) in the current schema or data set. The views stand on each other: run all, in
-- this order. Most engines fix a view's columns when it is made: run this again after a release that adds some.
"""

_LATEST: Final = """\
WITH tries AS (
    SELECT corpus_id, uri, recording_id, run_id, 1 AS decoded FROM recordings
    UNION ALL
    SELECT corpus_id, uri, recording_id, run_id, 0 AS decoded FROM failures WHERE segment_id IS NULL
),
versions AS (
    SELECT corpus_id, uri, recording_id, max(run_id) AS last_run, max(CASE WHEN decoded = 1 THEN run_id END) AS base_run
    FROM tries GROUP BY corpus_id, uri, recording_id
),
placed AS (
    SELECT corpus_id, recording_id, base_run,
        row_number() OVER (PARTITION BY corpus_id, uri ORDER BY last_run DESC, recording_id DESC) AS place
    FROM versions
),
latest AS (
    SELECT corpus_id, recording_id, base_run FROM placed WHERE place = 1
)"""
"""The latest version of every uri and its base run, null where it never decoded."""

_RECORDINGS: Final = f"""\
{_LATEST}
SELECT r.*
FROM recordings r
JOIN latest l ON l.corpus_id = r.corpus_id AND l.recording_id = r.recording_id AND l.base_run = r.run_id"""

_SEGMENTS: Final = """\
SELECT s.*
FROM segments s
JOIN current_recordings r ON r.corpus_id = s.corpus_id AND r.recording_id = s.recording_id AND r.run_id = s.run_id"""

_STAGE: Final = """\
WITH newest AS (
    SELECT t.corpus_id, t.recording_id, t.segment_id, t.{name}, max(t.run_id) AS run_id
    FROM {table} t
    JOIN current_recordings r ON r.corpus_id = t.corpus_id AND r.recording_id = t.recording_id AND r.run_id <= t.run_id
    GROUP BY t.corpus_id, t.recording_id, t.segment_id, t.{name}
)
SELECT t.*
FROM {table} t
JOIN newest n ON n.corpus_id = t.corpus_id AND n.recording_id = t.recording_id AND n.run_id = t.run_id
    AND n.segment_id = t.segment_id AND n.{name} = t.{name}"""

_LATER: Final = """\
    SELECT t.corpus_id, t.recording_id, t.segment_id, '{table}/' || t.{name} AS stage, max(t.run_id) AS run_id
    FROM {table} t
    JOIN failed f ON f.corpus_id = t.corpus_id AND f.recording_id = t.recording_id AND f.first_run < t.run_id
    GROUP BY t.corpus_id, t.recording_id, t.segment_id, t.{name}"""

_FAILURES: Final = """\
{latest},
recent AS (
    SELECT f.corpus_id, f.recording_id, f.segment_id, f.stage, f.run_id
    FROM failures f
    JOIN latest l ON l.corpus_id = f.corpus_id AND l.recording_id = f.recording_id
    WHERE l.base_run IS NULL OR l.base_run <= f.run_id
),
failed AS (
    SELECT corpus_id, recording_id, min(run_id) AS first_run FROM recent GROUP BY corpus_id, recording_id
),
wholes AS (
    SELECT corpus_id, recording_id, max(run_id) AS run_id
    FROM recent WHERE segment_id IS NULL GROUP BY corpus_id, recording_id
),
parts AS (
    SELECT corpus_id, recording_id, segment_id, stage, max(run_id) AS run_id
    FROM recent WHERE segment_id IS NOT NULL GROUP BY corpus_id, recording_id, segment_id, stage
),
later AS (
{later}
),
reached AS (
    SELECT corpus_id, recording_id, run_id FROM later
    UNION ALL
    SELECT corpus_id, recording_id, run_id FROM parts
),
later_wholes AS (
    SELECT corpus_id, recording_id, max(run_id) AS run_id FROM reached GROUP BY corpus_id, recording_id
)
SELECT f.*
FROM failures f
JOIN wholes w ON w.corpus_id = f.corpus_id AND w.recording_id = f.recording_id AND w.run_id = f.run_id
LEFT JOIN later_wholes d ON d.corpus_id = f.corpus_id AND d.recording_id = f.recording_id AND d.run_id > f.run_id
WHERE f.segment_id IS NULL AND d.run_id IS NULL
UNION ALL
SELECT f.*
FROM failures f
JOIN parts p ON p.corpus_id = f.corpus_id AND p.recording_id = f.recording_id AND p.run_id = f.run_id
    AND p.segment_id = f.segment_id AND p.stage = f.stage
LEFT JOIN later d ON d.corpus_id = f.corpus_id AND d.recording_id = f.recording_id AND d.run_id > f.run_id
    AND d.segment_id = f.segment_id AND d.stage = f.stage
WHERE d.run_id IS NULL"""


_NAMES: Final = {table: name for table in TABLES if (name := leading_key(table))}
"""What tells the rows of a segment apart in each stage's table: the model, the spectrogram's kind, the format."""

CURRENT: Final[dict[str, str]] = {
    "recordings": _RECORDINGS,
    "segments": _SEGMENTS,
    **{table: _STAGE.format(table=table, name=name) for table, name in _NAMES.items()},
    "failures": _FAILURES.format(
        latest=_LATEST,
        later="\n    UNION ALL\n".join(_LATER.format(table=table, name=name) for table, name in _NAMES.items()),
    ),
}
"""The query of each view, by table; `recordings` first, since others read its view."""


def view_name(table: str) -> str:
    """Return the name of the view of `table`'s current rows."""
    return f"current_{table}"


def script() -> str:
    """Return the views as an SQL script for engines other than `phonolake query`."""
    views = (f"CREATE OR REPLACE VIEW {view_name(table)} AS\n{query};\n" for table, query in CURRENT.items())
    return "\n".join([HEADER, *views])


if __name__ == "__main__":
    print(script(), end="")
