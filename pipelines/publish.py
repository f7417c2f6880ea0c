"""Publishing: from the verdict alone, each final file is made and put create-once; by anyone, any number of times."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from pipelines.parquet import footer, to_parquet
from pipelines.runs import read_table
from pipelines.store import Store
from schemas.ids import segment_ids
from schemas.records import FinalFile, Plan, PublishedFile, Verdict
from schemas.tables import SORT_KEYS, TABLES
from workers.tabulate import in_order

COPIERS: Final = 8


def publish(store: Store, plan: Plan, verdict: Verdict) -> list[PublishedFile]:
    """Publish every file of a verdict: copies from here, rewrites as Ray tasks; return them in the verdict's order."""
    rewrite = ray.remote(num_cpus=1)(rewritten)
    pending = [None if file.whole else rewrite.remote(store, plan, verdict.rows_file, file) for file in verdict.files]
    with ThreadPoolExecutor(COPIERS) as copiers:
        copies = [copiers.submit(copied, store, file) if file.whole else None for file in verdict.files]
        return [copy.result() if copy else ray.get(task) for copy, task in zip(copies, pending, strict=True)]


def copied(store: Store, file: FinalFile) -> PublishedFile:
    """Publish a file that is one fragment under another name."""
    source = file.sources[0]
    try:
        store.copy(source.path, file.path)
    except FileNotFoundError:
        if not store.exists(file.path):  # staging goes after the seal, and by then all files are there
            raise
    return PublishedFile(file.table, file.path, source.rows, source.size_bytes, source.sha256)


def rewritten(store: Store, plan: Plan, rows_file: str, file: FinalFile) -> PublishedFile:
    """Publish a file gathered from several fragments: winning rows only, sorted."""
    if store.exists(file.path):  # complete since it exists
        return describe(store, file.table, file.path)
    winners = read_table(store, rows_file, ["recording_id", "segment_index", "receipt"])
    try:
        parts = [_winning_rows(store, file, number, winners) for number in range(len(file.sources))]
    except FileNotFoundError:
        if not store.exists(file.path):  # staging goes after the seal, and by then all files are there
            raise
        return describe(store, file.table, file.path)
    keys = SORT_KEYS[file.table]
    parts.sort(key=lambda part: tuple(str(part[key][0]) for key in keys) if part.num_rows else ())
    rows = in_order(file.table, pa.concat_tables([TABLES[file.table].empty_table(), *parts]))
    data = to_parquet(rows.replace_schema_metadata(footer(plan)))
    ours = store.create(file.path, data)
    return describe(store, file.table, file.path, data if ours else None)


def describe(store: Store, table: str, path: str, data: bytes | None = None) -> PublishedFile:
    """Return the facts of a published file, read back where its bytes are not at hand."""
    data = store.read(path) if data is None else data
    rows = pq.read_metadata(pa.BufferReader(data)).num_rows
    return PublishedFile(table, path, rows, len(data), hashlib.sha256(data).hexdigest())


def _winning_rows(store: Store, file: FinalFile, number: int, winners: pa.Table) -> pa.Table:
    source = file.sources[number]
    rows = read_table(store, source.path).replace_schema_metadata(None)
    inside = pc.greater_equal(rows["recording_id"], file.first)
    if file.before is not None:
        inside = pc.and_(inside, pc.less(rows["recording_id"], file.before))
    won = pc.is_in(_row_keys(rows), value_set=_winning_keys(winners, source.receipt))
    counts = pc.and_(inside, won)
    return rows if pc.all(counts).as_py() else rows.filter(counts)  # filtering copies


def _winning_keys(winners: pa.Table, receipt: int) -> pa.Array:
    """Return what a receipt won: segment ids, and the recording ids of closing rows."""
    won = winners.filter(pc.equal(winners["receipt"], receipt))
    keys = pc.coalesce(segment_ids(won["recording_id"], won["segment_index"]), won["recording_id"])
    return keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys


def _row_keys(rows: pa.Table) -> pa.ChunkedArray:
    """Return what a row belongs to: its segment, or its recording where it is about the whole."""
    if "segment_id" not in rows.column_names:
        return rows["recording_id"]
    return pc.coalesce(rows["segment_id"], rows["recording_id"])
