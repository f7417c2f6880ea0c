"""The seal: what a run did, written once; after it the staging folder goes."""

from contextlib import suppress
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import StoreError
from pipelines.parquet import to_parquet
from pipelines.runs import read_table, writer_id
from pipelines.scratch import database
from pipelines.store import Store
from schemas import layout, records
from schemas.records import Plan, PublishedFile, Seal, Verdict

_LEDGER = """
SELECT p.recording_id, p.uri, p.size_bytes, v.outcome,
    [k.key FOR k IN $stages IF list_contains(p.stages, k.id)] AS stages
FROM plan p JOIN closings v USING (recording_id) ORDER BY p.recording_id
"""


def seal(store: Store, plan: Plan, verdict: Verdict, files: list[PublishedFile]) -> Seal:
    """Write ledger and seal, create-once, then delete the run's staging; return the seal that stands."""
    closings = _closings(store, verdict)
    store.create(layout.ledger_file(plan.corpus, plan.run), to_parquet(_ledger(store, plan, closings)))
    outcomes = {count["values"]: count["counts"] for count in pc.value_counts(closings["outcome"]).to_pylist()}
    attempts = [path for path in store.list(layout.run_folder(plan.corpus, plan.run)) if "/attempts/" in path]
    record = Seal(
        corpus=plan.corpus,
        run=plan.run,
        planned_at=plan.planned_at,
        sealed_at=datetime.now(UTC).isoformat(timespec="seconds"),
        attempts=len(attempts),
        recordings=plan.recordings,
        ok=outcomes.get("ok", 0),
        partial=outcomes.get("partial", 0),
        failed=outcomes.get("failed", 0),
        audio_seconds=pc.sum(closings["seconds"]).as_py() or 0.0,
        ledger_file=layout.ledger_file(plan.corpus, plan.run),
        files=files,
        stages=plan.stages,
        writer=writer_id(),
        returned=plan.recordings - closings.num_rows,
    )
    store.create(layout.seal_file(plan.corpus, plan.run), records.to_json(record))
    standing = records.read_seal(store.read(layout.seal_file(plan.corpus, plan.run)))
    with suppress(StoreError):  # the run has ended; what is left is for phonolake gc
        store.delete_folder(layout.staging_folder(plan.corpus, plan.run))
    return standing


def _ledger(store: Store, plan: Plan, closings: pa.Table) -> pa.Table:
    planned = read_table(store, plan.recordings_file, ["recording_id", "uri", "size_bytes", "stages"])
    stages = [{"id": stage.id, "key": stage.key} for stage in plan.stages]
    with database(plan=planned, closings=closings) as scratch:
        return scratch.sql(_LEDGER, params={"stages": stages}).to_arrow_table().cast(records.LEDGER)


def _closings(store: Store, verdict: Verdict) -> pa.Table:
    """Return what a verdict says of each recording; a part of the file at a time, for most rows are of segments."""
    file = pq.ParquetFile(pa.BufferReader(store.read(verdict.rows_file)))
    columns = ["recording_id", "segment_index", "outcome", "seconds"]
    parts = (batch.filter(pc.is_null(batch["segment_index"])) for batch in file.iter_batches(columns=columns))
    return pa.Table.from_batches(parts, pa.schema([records.VERDICT.field(name) for name in columns]))
