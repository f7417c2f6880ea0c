"""What sealed runs did to each recording, as SQL over the ledgers: what planning and retrying stand on."""

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow as pa

from pipelines.runs import Runs, read_table
from pipelines.stages import Stage
from pipelines.store import Store
from schemas import layout, records

READERS: Final = 16

STANDING: Final = """
bases AS (  -- each time that a recording was cut into segments, or could not be
    SELECT recording_id, run, outcome, [key FOR key IN stages IF starts_with(key, 'segments/')][1] AS base FROM ledger
),
last_bases AS (
    SELECT recording_id, max(run) AS run, arg_max(base, run) AS base, arg_max(outcome, run) AS outcome
    FROM bases WHERE base IS NOT NULL GROUP BY recording_id
),
successes AS (SELECT recording_id, max(run) AS run FROM ledger WHERE outcome <> 'failed' GROUP BY recording_id),
since AS (  -- stages tried, and those done, on the segments of that time; a later success takes a failure's place
    SELECT l.recording_id,
        coalesce(flatten(list(l.stages) FILTER (l.outcome <> 'failed' OR s.run IS NULL OR l.run > s.run)), []) AS tried,
        coalesce(flatten(list(l.stages) FILTER (l.outcome <> 'failed')), []) AS done
    FROM ledger l JOIN last_bases b ON b.recording_id = l.recording_id AND l.run >= b.run
        LEFT JOIN successes s ON s.recording_id = l.recording_id
    GROUP BY l.recording_id
),
newest AS (SELECT uri, arg_max(recording_id, run) AS recording_id FROM ledger GROUP BY uri),
standing AS (
    SELECT b.recording_id, b.base = $base AND n.recording_id IS NOT NULL AS holds, b.outcome = 'failed' AS failed,
        s.tried, s.done, n.recording_id IS NOT NULL AS is_newest
    FROM last_bases b JOIN since s USING (recording_id) LEFT JOIN newest n USING (recording_id)
)
"""
"""`standing`, from `ledger` and the parameter `base` (the key of the stage that cuts segments): what counts of each
recording. `holds` is false where the recipe cuts otherwise than the last run did, or where a run since then saw the
uri at another version: then nothing that was done counts, since its segments are not those that are current.

A stage of a run that failed on the whole recording counts as tried until a later run succeeds on it with other stages:
then that failure is no longer among the current ones, where a retry would find it, and the next run does the stage."""


def load_ledger(store: Store, runs: Runs) -> pa.Table:
    """Return the ledgers of all sealed runs, with the run's name as a column; schema records.LEDGER and `run`."""
    empty = records.LEDGER.append(pa.field("run", pa.string())).empty_table()

    def load(run: str) -> pa.Table:
        ledger = read_table(store, layout.ledger_file(runs.corpus, run)).select(records.LEDGER.names)
        return ledger.append_column("run", pa.repeat(run, ledger.num_rows)).cast(empty.schema)

    with ThreadPoolExecutor(READERS) as readers:
        return pa.concat_tables([empty, *readers.map(load, sorted(runs.sealed))])


def parameters(stages: list[Stage]) -> dict[str, object]:
    """Return the parameters of a query over STANDING: `base` and `stages`, the stages wanted with id and key."""
    base = next(stage for stage in stages if stage.table == "segments")
    return {"base": base.key, "stages": [{"id": stage.id, "key": stage.key} for stage in stages]}
