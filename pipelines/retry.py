"""Planning again what failed: whole recordings with the stages they lack, and single segments of a stage."""

from collections.abc import Collection
from typing import Final

import duckdb
import pyarrow as pa

from pipelines.lake import open_lake
from pipelines.plan import Delta, with_ids
from pipelines.runs import Runs, load_ledger
from pipelines.stages import Stage
from pipelines.store import Store
from schemas import records

_FAILURES: Final = """
SELECT recording_id, segment_id, stage, right(segment_id, -33) AS segment_index
FROM current_failures WHERE corpus_id = $corpus AND CASE WHEN len($codes) = 0 THEN transient
    ELSE list_contains($codes, code) END
"""

_AGAIN: Final = """
WITH booked AS (
    SELECT recording_id, flatten(list(stages)) AS keys FROM ledger WHERE outcome <> 'failed' GROUP BY recording_id
),
whole AS (
    SELECT DISTINCT f.recording_id, [s.id FOR s IN $stages IF NOT list_contains(coalesce(b.keys, []), s.key)] AS stages
    FROM failures f LEFT JOIN booked b USING (recording_id) WHERE f.segment_id IS NULL
),
parts AS (  -- only what was done by the code and weights of today; the rest is planned anew by any run
    SELECT f.recording_id, list(DISTINCT f.stage ORDER BY f.stage) AS stages,
        list(DISTINCT f.stage || '#' || f.segment_index::INTEGER ORDER BY f.stage || '#' || f.segment_index::INTEGER)
            AS "only"
    FROM failures f JOIN booked b USING (recording_id)
    WHERE f.segment_id IS NOT NULL AND f.recording_id NOT IN (SELECT recording_id FROM whole)
        AND len([s.id FOR s IN $stages IF s.id = f.stage AND list_contains(b.keys, s.key)]) > 0
    GROUP BY f.recording_id
),
again AS (
    SELECT recording_id, stages, NULL::VARCHAR[] AS "only" FROM whole WHERE len(stages) > 0
    UNION ALL SELECT recording_id, stages, "only" FROM parts
)
SELECT l.recording_id, l.uri, l.etag, l.size_bytes, l.modified_ns, l.metadata, a.stages, a."only"
FROM again a JOIN listing l USING (recording_id) ORDER BY l.recording_id
"""


def find_failed(store: Store, runs: Runs, listing: pa.Table, stages: list[Stage], codes: Collection[str] = ()) -> Delta:
    """Return what failed in sealed runs and still lies in the source at that version.

    Without `codes` it is what failed for a reason that may pass (`transient`), otherwise what failed with one of them.
    """
    failures = open_lake(store).sql(_FAILURES, params={"corpus": runs.corpus, "codes": list(codes)}).to_arrow_table()
    connection = duckdb.connect()
    connection.register("failures", failures)
    connection.register("ledger", load_ledger(store, runs))
    connection.register("listing", with_ids(runs.corpus, listing))
    wanted = [{"id": stage.id, "key": stage.key} for stage in stages]
    again = connection.sql(_AGAIN, params={"stages": wanted}).to_arrow_table()
    return Delta(again.select(records.PLAN.names).cast(records.PLAN), listing.num_rows, 0, 0, again.num_rows, 0)
