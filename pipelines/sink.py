"""The sink: wire tables become fragments, one per table and block, then a receipt that proves them.

Fragments are written by `stage`, a step of the graph, and not by `write`: Ray holds everything that passes through a
sink's `write` until the task ends (plan_write_op.py tees its input), and a ten-hour recording must not be held. What
reaches `write` is the receipt's rows.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import Datasink

from pipelines.errors import BudgetExceeded
from pipelines.meter import Key, Meter, key
from pipelines.metered import STAGED, WRITE, segment_seconds, spanned_seconds
from pipelines.parquet import footer, to_parquet
from pipelines.store import Store
from schemas import layout, tables, wire
from schemas.records import Fragment, Plan, Receipt, to_json
from workers.tabulate import RunKeys, receipt_rows, tabulate, totals

RECEIPT_HEADER: Final = "phonolake.receipt"
_PROOF: Final = wire.RECEIPT.append(pa.field("fragments", pa.string()))  # JSON, on the first row of a block


class LakeSink(Datasink[dict[str, float]]):
    """Writes to a run's staging folder, on behalf of one attempt."""

    def __init__(self, store: Store, plan: Plan, attempt: int, tally: Any = None) -> None:
        """Take where to write; `tally` is told of every receipt, None for none."""
        self._store, self._plan, self._attempt, self._tally = store, plan.without_units(), attempt, tally
        self.meter = Meter(plan.corpus, tally)
        self._keys = RunKeys(plan.run, plan.corpus, datetime.fromisoformat(plan.planned_at))
        base = next(stage for stage in plan.stages if stage.table == "segments")
        self._base = base.id
        self._stages = [(stage.id, stage.table) for stage in plan.stages if stage is not base]

    def stage(self, block: pa.Table) -> pa.Table:
        """Write a wire table's fragments; return the rows of its receipt."""
        if not block.num_rows:
            return _PROOF.empty_table()
        begun = time.perf_counter()
        found = tabulate(block, self._keys, self._base, self._stages)
        fragments = [self._put(table, rows) for table, rows in found.items()]
        self.meter.add({WRITE: time.perf_counter() - begun, **_measures(block, found, fragments)})
        note = json.dumps({"rows": block.num_rows, "fragments": [asdict(one) for one in fragments]})
        notes = pa.array([note] + [None] * (block.num_rows - 1), pa.string())
        return receipt_rows(block).append_column("fragments", notes)

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> dict[str, float]:
        """Write the receipt of everything one task staged, after all of it is there.

        Raises:
            BudgetExceeded: the tally says that too many recordings failed; the receipt is written.
        """
        proofs = [block for block in blocks if block.num_rows]
        if not proofs:
            return {}
        proof = pa.concat_tables(proofs)
        notes = [json.loads(note) for note in pc.drop_null(proof["fragments"]).to_pylist()]
        if sum(note["rows"] for note in notes) != proof.num_rows:  # a receipt without its fragments would lose rows
            raise RuntimeError("the rows of one staged block reached different write tasks")
        receipt = Receipt(self._attempt, [Fragment(**fragment) for note in notes for fragment in note["fragments"]])
        rows = proof.drop_columns(["fragments"]).replace_schema_metadata({RECEIPT_HEADER: to_json(receipt)})
        name = layout.receipt_file(self._plan.corpus, self._plan.run, self._attempt, uuid.uuid4().hex)
        self._store.put(name, to_parquet(rows))
        counts = totals(rows)
        self.meter.add(_outcomes(rows, counts["seconds"]))
        if self._is_over_budget(counts):
            raise BudgetExceeded("more recordings failed than limits.max_failed_fraction allows")
        return counts

    def _is_over_budget(self, counts: dict[str, float]) -> bool:
        """Tell the tally; where it is gone with its node, the receipts are counted after the attempt all the same."""
        if self._tally is None:
            return False
        try:
            return bool(ray.get(self._tally.add.remote(counts)))
        except ray.exceptions.RayError:
            return False

    def _put(self, table: str, rows: pa.Table) -> Fragment:
        data = to_parquet(rows.replace_schema_metadata(footer(self._plan, table)), tables.leading_key(table))
        path = layout.fragment_file(self._plan.corpus, self._plan.run, self._attempt, table, uuid.uuid4().hex)
        self._store.put(path, data)
        span = pc.min_max(rows["recording_id"]).as_py()
        digest = hashlib.sha256(data).hexdigest()
        return Fragment(table, path, rows.num_rows, len(data), digest, span["min"], span["max"])


def _measures(block: pa.Table, found: dict[str, pa.Table], fragments: list[Fragment]) -> dict[Key, float]:
    """Return what a staged block adds to the measures."""
    measures = {key("staged_bytes", table=one.table): float(one.size_bytes) for one in fragments}
    measures[key("segments")] = len(block) - block["segment_index"].null_count
    measures[key("segment_audio_seconds")] = segment_seconds(block)
    measures[STAGED] = spanned_seconds(block)
    if "failures" in found:
        failed = found["failures"].group_by(["stage", "code"]).aggregate([([], "count_all")]).to_pylist()
        measures |= {key("failures", stage=row["stage"], code=row["code"]): row["count_all"] for row in failed}
    return measures


def _outcomes(receipt: pa.Table, audio_seconds: float) -> dict[Key, float]:
    """Return what a receipt adds to the measures."""
    outcomes = pc.value_counts(pc.drop_null(receipt["outcome"])).to_pylist()
    found = {key("recordings", outcome=one["values"]): float(one["counts"]) for one in outcomes}
    return {**found, key("decoded_audio_seconds"): audio_seconds}
