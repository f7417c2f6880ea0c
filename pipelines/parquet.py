"""How the lake writes Parquet: zstd, small row groups, the run in the footer."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.records import Plan
from schemas.tables import FOOTERS, SCHEMA_VERSION

ROW_GROUP_BYTES: Final = 16 << 20  # uncompressed: a reader that wants one recording reads little else
SPARE_BYTES: Final = 1 << 20  # for footers and page headers
_REPEATING: Final = {
    *("run_id", "corpus_id", "recording_id", "segment_id", "kind", "model", "revision", "layer", "pooling", "label"),
    *("stage", "code", "container", "codec", "status", "decoder", "language", "format"),
}
"""Columns worth a dictionary; numbers are not."""


def footer(plan: Plan, table: str) -> dict[str, str]:
    """Return what a file of a run says of itself: schema version, run, stage fingerprints; and to other readers."""
    return {
        **FOOTERS.get(table, {}),
        "phonolake.schema_version": SCHEMA_VERSION,
        "phonolake.run_id": plan.run,
        "phonolake.corpus": plan.corpus,
        "phonolake.stages": json.dumps({stage.id: stage.fingerprint for stage in plan.stages}),
    }


def to_parquet(table: pa.Table, lead: str | None = None) -> memoryview:
    """Return a table as the bytes of a Parquet file; see write_parquet."""
    room = pa.allocate_buffer(table.nbytes + table.nbytes // 8 + SPARE_BYTES)
    try:
        with pa.FixedSizeBufferWriter(room) as sink:  # memory that grows is copied, and there twice while it is
            write_parquet(sink, table.schema, [table], lead)
            return memoryview(room)[: sink.tell()]
    except OSError:  # what does not get smaller, such as many tiny row groups
        grown = pa.BufferOutputStream()
        write_parquet(grown, table.schema, [table], lead)
        return memoryview(grown.getvalue())


def write_parquet(sink: Any, schema: pa.Schema, pieces: Iterable[pa.Table], lead: str | None = None) -> None:
    """Write sorted pieces to a path or an output stream; schema metadata becomes the footer's.

    Row groups end where the value of column `lead` changes, so that whoever wants one model reads no other's.
    """
    repeating = [name for name in schema.names if name in _REPEATING]
    with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=repeating) as writer:
        for piece in pieces:
            for part in _by_lead(piece, lead):
                rows = max(1, int(part.num_rows * ROW_GROUP_BYTES / max(part.nbytes, 1)))
                writer.write_table(part, row_group_size=rows)


def _by_lead(piece: pa.Table, lead: str | None) -> Iterator[pa.Table]:
    if lead is None or not piece.num_rows:
        yield piece
        return
    runs = pc.run_end_encode(piece[lead].combine_chunks())
    start = 0
    for end in runs.run_ends.to_pylist():
        yield piece.slice(start, end - start)
        start = end
