"""Planning again what failed: whole recordings with the stages they lack, and single segments of a stage."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
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
SELECT recording_id, segment_id, stage, code, right(segment_id, -33)::INTEGER AS segment_index,
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


@dataclass(frozen=True, slots=True)
class Standing:
    """The failures of a corpus before a retry: by code those that it is to try again, and the others.

    `recordings` is how many recordings the first are of.
    """

    chosen: dict[str, int]
    others: dict[str, int]
    recordings: int

    def left(self, planned: int) -> int:
        """Return how many recordings were to be tried again, and were not among the `planned` ones."""
        return max(0, self.recordings - planned)

    def said(self, planned: int, codes: Collection[str]) -> str:
        """Return what to tell of what a retry of `planned` recordings has not tried; empty where that is nothing."""
        parts = []
        if left := self.left(planned):
            parts.append(
                f"{left:,} recordings that failed ({_listed(self.chosen)}) are not tried again: the source has them no "
                f"more, or in another version or way of cutting, which phonolake run takes"
            )
        elif codes and not self.chosen:
            parts.append(f"nothing stands as failed with {', '.join(sorted(codes))}")
        if self.others and not codes:
            count = f"{sum(self.others.values()):,}"
            parts.append(
                f"{count} failed for reasons that do not pass ({_listed(self.others)}); mend those, then name "
                f"them with --code"
            )
        elif self.others and not planned:
            parts.append(f"{sum(self.others.values()):,} stand with other codes ({_listed(self.others)})")
        return "; ".join(parts)


def standing_failures(store: Store, corpus: str, codes: Collection[str] = ()) -> Standing:
    """Return what stands as failed, divided as `find_failed` does."""
    lake, which = open_lake(store), {"codes": list(codes), "corpus": corpus}
    counts = lake.sql(f"SELECT chosen, code, count(*) FROM ({_FAILURES}) GROUP BY ALL ORDER BY code", params=which)
    chosen: dict[str, int] = {}
    others: dict[str, int] = {}
    for is_chosen, code, count in counts.fetchall():
        (chosen if is_chosen else others)[code] = count
    [(recordings,)] = lake.sql(
        f"SELECT count(DISTINCT recording_id) FROM ({_FAILURES}) WHERE chosen", params=which
    ).fetchall()
    return Standing(chosen, others, recordings)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {code}" for code, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])))
