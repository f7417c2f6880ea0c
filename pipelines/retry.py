"""Planning again what failed: whole recordings with the stages they lack, and single segments of a stage."""

from collections.abc import Collection
from typing import Final

import pyarrow as pa

from pipelines.lake import open_lake
from pipelines.ledger import STANDING, load_ledger, parameters
from pipelines.plan import PLAN_ORDER, Delta, with_ids
from pipelines.runs import Runs
from pipelines.scratch import database
from pipelines.stages import Stage
from pipelines.store import Store
from schemas import records

_FAILURES: Final = """
SELECT recording_id, segment_id, stage, right(segment_id, -33)::INTEGER AS segment_index,
    CASE WHEN len($codes) = 0 THEN transient ELSE list_contains($codes, code) END AS chosen
FROM current_failures WHERE corpus_id = $corpus
"""

_AGAIN: Final = f"""
WITH {STANDING},
whole AS (  -- what failed as a whole, with the stages it lacks; that may be none, where segments were tried again
    SELECT DISTINCT f.recording_id,
        [w.id FOR w IN $stages IF s.failed OR NOT list_contains(s.done, w.key)] AS stages
    FROM failures f JOIN standing s USING (recording_id) WHERE f.segment_id IS NULL AND f.chosen AND s.holds
),
parts AS (  -- only what was done by the code and weights of today; the rest is planned anew by any run
    SELECT f.recording_id, list(DISTINCT f.stage ORDER BY f.stage) AS stages,
        list(DISTINCT f.stage || '#' || f.segment_index ORDER BY f.stage || '#' || f.segment_index) AS "only"
    FROM failures f JOIN standing s USING (recording_id) LEFT JOIN whole w USING (recording_id)
    WHERE f.segment_id IS NOT NULL AND s.holds AND NOT s.failed
        AND CASE WHEN w.recording_id IS NULL THEN f.chosen ELSE len(w.stages) = 0 END
        AND len([w.id FOR w IN $stages IF w.id = f.stage AND list_contains(s.done, w.key)]) > 0
    GROUP BY f.recording_id
),
again AS (
    SELECT recording_id, stages, NULL::VARCHAR[] AS "only" FROM whole WHERE len(stages) > 0
    UNION ALL SELECT recording_id, stages, "only" FROM parts
)
SELECT l.*, a.stages, a."only" FROM again a JOIN listing l USING (recording_id) ORDER BY {PLAN_ORDER}
"""


def find_failed(store: Store, runs: Runs, listing: pa.Table, stages: list[Stage], codes: Collection[str] = ()) -> Delta:
    """Return what failed in sealed runs and still lies in the source at that version.

    Without `codes` it is what failed for a reason that may pass (`transient`), otherwise what failed with one of them.
    """
    failures = open_lake(store).sql(_FAILURES, params={"corpus": runs.corpus, "codes": list(codes)}).to_arrow_table()
    known = {"failures": failures, "ledger": load_ledger(store, runs), "listing": with_ids(runs.corpus, listing)}
    with database(**known) as scratch:
        again = scratch.sql(_AGAIN, params=parameters(stages)).to_arrow_table()
    return Delta(again.select(records.PLAN.names).cast(records.PLAN), listing.num_rows, 0, 0, again.num_rows, 0)
