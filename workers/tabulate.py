"""From wire tables to rows of the lake's tables: pure column work, no loop over rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas import ids, tables, wire
from workers.columns import as_array


@dataclass(frozen=True, slots=True)
class RunKeys:
    """What every row of a run shares."""

    run_id: str
    corpus_id: str
    ingested_at: datetime


def tabulate(block: pa.Table, keys: RunKeys, base: str, stages: Sequence[tuple[str, str]]) -> dict[str, pa.Table]:
    """Return the rows that a wire table gives each table, schemas of schemas.tables; tables without rows are left out.

    `base` is the id of the stage that writes `recordings` and `segments`; `stages` are (id, table) of the others.
    Recordings that need only other stages are not written again.
    """
    light = block.select([name for name in wire.WIRE.names if name != "pcm"])  # filtering copies: not the samples
    new = light.filter(_needing(light, base))
    parts: dict[str, list[pa.Table]] = {
        "recordings": [_recordings(new, keys)],
        "segments": [_segments(new, keys)],
        "failures": [_whole_failures(light, keys)],
    }
    for stage, table in stages:
        if wire.rows_column(stage) in block.column_names:
            parts.setdefault(table, []).append(_exploded(block, stage, table, keys))
            parts["failures"].append(_segment_failures(block, stage, keys))
    joined = {table: pa.concat_tables(found) for table, found in parts.items()}
    return {table: in_order(table, rows) for table, rows in joined.items() if rows.num_rows}


def receipt_rows(block: pa.Table) -> pa.Table:
    """Return what a receipt says of a wire table, schema schemas.wire.RECEIPT."""
    closing = as_array(block["closing"])
    failure = pc.struct_field(closing, "failure")
    failed = pc.is_valid(failure)
    outcome = pc.if_else(failed, "failed", pc.struct_field(closing, "status"))
    columns = [
        block["recording_id"],
        block["segment_index"],
        pc.struct_field(closing, "n_segments"),
        outcome,
        pc.struct_field(closing, "decoded_seconds"),
        pc.struct_field(failure, "transient"),
        _failed_stages(block),
    ]
    return pa.Table.from_arrays(columns, schema=wire.RECEIPT)


def _failed_stages(block: pa.Table) -> pa.Array:
    count = np.zeros(block.num_rows, np.int32)
    for name in block.column_names:
        if name.startswith(wire.ERRORS):
            count += pc.is_valid(block[name]).to_numpy().astype(np.int32)
    return pa.array(count)


def in_order(table: str, rows: pa.Table) -> pa.Table:
    """Return rows sorted as schemas.tables.SORT_KEYS says; without a copy where they are sorted already."""
    order = pc.sort_indices(rows, sort_keys=[(key, "ascending") for key in tables.SORT_KEYS[table]])
    if (np.diff(order.to_numpy()) == 1).all():
        return rows
    return rows.take(order)


def _needing(block: pa.Table, stage: str) -> pa.Array:
    lists = as_array(block["stages"])
    mask = np.zeros(block.num_rows, bool)
    parents = pc.list_parent_indices(lists).to_numpy()
    mask[parents[pc.equal(pc.list_flatten(lists), stage).to_numpy(zero_copy_only=False)]] = True
    return pa.array(mask)


def _keyed(table: str, recording_ids: pa.Array, keys: RunKeys, columns: dict[str, pa.Array]) -> pa.Table:
    """Assemble rows of `table` from their ids and the table's own columns; columns it has not stay null."""
    schema, n_rows = tables.TABLES[table], len(recording_ids)
    shared = {"run_id": keys.run_id, "corpus_id": keys.corpus_id, "ingested_at": keys.ingested_at}
    arrays = []
    for field in schema:
        if field.name == "recording_id":
            arrays.append(recording_ids)
        elif field.name in shared:
            arrays.append(pa.repeat(pa.scalar(shared[field.name], field.type), n_rows))
        else:
            arrays.append(columns.get(field.name, pa.nulls(n_rows, field.type)))
    typed = [_cast(array, field.type) for array, field in zip(arrays, schema, strict=True)]
    return pa.Table.from_arrays(typed, schema=schema)


def _cast(array: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    array = as_array(array)
    return array if array.type == kind else array.cast(kind)


def _recordings(block: pa.Table, keys: RunKeys) -> pa.Table:
    closing = as_array(block["closing"])
    kept = pc.and_(pc.is_valid(closing), pc.is_null(pc.struct_field(closing, "failure")))
    found = closing.filter(kept)
    columns = {field.name: pc.struct_field(found, field.name) for field in tables.beyond_keys("recordings")}
    return _keyed("recordings", block["recording_id"].filter(kept), keys, columns)


def _segments(block: pa.Table, keys: RunKeys) -> pa.Table:
    block = block.filter(pc.is_valid(block["segment_index"]))
    names = ("segment_index", "start_seconds", "end_seconds", "speech_ratio", "channel")
    columns = {name: block[name] for name in names}
    columns["segment_id"] = ids.segment_ids(block["recording_id"], block["segment_index"])
    return _keyed("segments", block["recording_id"], keys, columns)


def _exploded(block: pa.Table, stage: str, table: str, keys: RunKeys) -> pa.Table:
    lists = as_array(block[wire.rows_column(stage)])
    parents = pc.list_parent_indices(lists)
    structs = pc.list_flatten(lists)
    recordings = block["recording_id"].take(parents)
    columns = dict(zip((field.name for field in structs.type), structs.flatten(), strict=True))
    columns["segment_id"] = ids.segment_ids(recordings, block["segment_index"].take(parents))
    return _keyed(table, recordings, keys, columns)


def _whole_failures(block: pa.Table, keys: RunKeys) -> pa.Table:
    failures = pc.struct_field(as_array(block["closing"]), "failure")
    return _failures(block, failures, keys)


def _segment_failures(block: pa.Table, stage: str, keys: RunKeys) -> pa.Table:
    return _failures(block, as_array(block[wire.error_column(stage)]), keys)


def _failures(block: pa.Table, failures: pa.Array, keys: RunKeys) -> pa.Table:
    block, failures = block.filter(pc.is_valid(failures)), failures.filter(pc.is_valid(failures))
    columns = {field.name: pc.struct_field(failures, field.name) for field in failures.type}
    columns["uri"] = block["uri"]
    columns["segment_id"] = ids.segment_ids(block["recording_id"], block["segment_index"])
    return _keyed("failures", block["recording_id"], keys, columns)


def totals(receipt: pa.Table) -> dict[str, float]:
    """Return what a receipt adds to a run: recordings closed, failed among them, audio seconds."""
    outcomes = receipt["outcome"]
    return {
        "recordings": len(outcomes) - outcomes.null_count,
        "failed": pc.sum(pc.equal(outcomes, "failed")).as_py() or 0,
        "seconds": pc.sum(receipt["seconds"]).as_py() or 0.0,
    }


def merge_totals(counts: Iterable[dict[str, float]]) -> dict[str, float]:
    """Add totals up."""
    merged: dict[str, float] = {"recordings": 0, "failed": 0, "seconds": 0.0}
    for one in counts:
        for name, value in one.items():
            merged[name] += value
    return merged
