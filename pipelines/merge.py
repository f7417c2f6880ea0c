"""Merging fragments: the winning rows of several sorted Parquet files, in order, with one slice in memory at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.ids import segment_ids
from schemas.tables import SORT_KEYS, TABLES, leading_key
from workers.tabulate import in_order

SLICE_BYTES: Final = 48 << 20  # uncompressed: what is sorted together, where fragments do not overlap


@dataclass(frozen=True, slots=True)
class LocalFragment:
    """A fragment to merge: a local file, and what of it wins (segment ids; recording ids of closing rows).

    It is opened anew for every row group, since an open pq.ParquetFile keeps the last one it read in memory.
    """

    path: Path
    winning: pa.Array


@dataclass(frozen=True, slots=True)
class Span:
    """Rows to merge: first <= recording_id < before (None: to the end)."""

    first: str
    before: str | None


@dataclass(frozen=True, slots=True)
class _RowGroup:
    """A row group, and the spans of its ids and of its leading key."""

    fragment: LocalFragment
    number: int
    size: int
    first: str
    last: str
    lead_first: str
    lead_last: str


def merged(table: str, fragments: Sequence[LocalFragment], span: Span) -> Iterator[pa.Table]:
    """Yield the winning rows of `table` inside a span, sorted by its SORT_KEYS, in pieces of about SLICE_BYTES."""
    lead, order = leading_key(table), _order(table)
    groups = [group for fragment in fragments for group in _row_groups(fragment, lead, order)]
    groups.sort(key=lambda group: group.first)  # then most slices are in order as they are read, and need no copy
    for value in _lead_values(fragments, lead):
        of_value = [group for group in groups if value is None or group.lead_first <= value <= group.lead_last]
        for start, end in _slices(of_value, span):
            parts = [
                _winning_rows(table, group, value, start, end)
                for group in of_value
                if group.last >= start and (end is None or group.first < end)
            ]
            rows = in_order(table, pa.concat_tables([TABLES[table].empty_table(), *parts]))
            if rows.num_rows:
                yield rows


def _order(table: str) -> str:
    """Return the id column to cut a table by; a segment's id begins with its recording's and sorts like it."""
    return "segment_id" if "segment_id" in SORT_KEYS[table] and table != "failures" else "recording_id"


def _row_groups(fragment: LocalFragment, lead: str | None, order: str) -> Iterator[_RowGroup]:
    metadata = pq.read_metadata(fragment.path)
    columns = {metadata.schema.column(number).path: number for number in range(metadata.num_columns)}
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        ids = group.column(columns[order]).statistics
        leads = group.column(columns[lead]).statistics if lead else None
        spans = (ids.min, ids.max, leads.min if leads else "", leads.max if leads else "")
        yield _RowGroup(fragment, number, group.total_byte_size, *spans)


def _lead_values(fragments: Sequence[LocalFragment], lead: str | None) -> list[str | None]:
    if lead is None:
        return [None]
    found = {value for one in fragments for value in pc.unique(pq.ParquetFile(one.path).read([lead])[lead]).to_pylist()}
    return sorted(found)


def _slices(groups: Sequence[_RowGroup], span: Span) -> Iterator[tuple[str, str | None]]:
    """Cut a span where row groups (sorted by `first`) begin, so that about SLICE_BYTES begin in each piece."""
    start, held = span.first, 0
    for group in groups:
        if held >= SLICE_BYTES and group.first > start and (span.before is None or group.first < span.before):
            yield start, group.first
            start, held = group.first, 0
        held += group.size
    yield start, span.before


def _winning_rows(table: str, group: _RowGroup, value: str | None, start: str, end: str | None) -> pa.Table:
    rows = pq.ParquetFile(group.fragment.path).read_row_group(group.number).replace_schema_metadata(None)
    ids = rows[_order(table)]
    counts = pc.and_(pc.greater_equal(ids, start), pc.is_in(_keys(rows), value_set=group.fragment.winning))
    if end is not None:
        counts = pc.and_(counts, pc.less(ids, end))
    if value is not None:
        counts = pc.and_(counts, pc.equal(rows[leading_key(table)], value))
    return rows if pc.all(counts).as_py() else rows.filter(counts)  # filtering copies


def _keys(rows: pa.Table) -> pa.ChunkedArray:
    """Return what a row belongs to: its segment, or its recording where it is about the whole."""
    if "segment_id" not in rows.column_names:
        return rows["recording_id"]
    return pc.coalesce(rows["segment_id"], rows["recording_id"])


def winning_keys(winners: pa.Table, receipt: int) -> pa.Array:
    """Return what a receipt won: segment ids, and the recording ids of closing rows."""
    won = winners.filter(pc.equal(winners["receipt"], receipt))
    keys = pc.coalesce(segment_ids(won["recording_id"], won["segment_index"]), won["recording_id"])
    return keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
