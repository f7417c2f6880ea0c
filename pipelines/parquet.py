"""How the lake writes Parquet: zstd, small row groups, the run in the footer."""

import json
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.records import Plan
from schemas.tables import SCHEMA_VERSION

ROW_GROUP_BYTES: Final = 16 << 20  # uncompressed: a reader that wants one recording reads little else
_REPEATING: Final = {
    *("run_id", "corpus_id", "recording_id", "segment_id", "kind", "model", "revision", "layer", "pooling", "label"),
    *("stage", "code", "container", "codec", "status", "decoder", "language"),
}
"""Columns worth a dictionary; numbers are not."""


def footer(plan: Plan) -> dict[str, str]:
    """Return what every file of a run says of itself: schema version, run, stage fingerprints."""
    return {
        "phonolake.schema_version": SCHEMA_VERSION,
        "phonolake.run_id": plan.run,
        "phonolake.corpus": plan.corpus,
        "phonolake.stages": json.dumps({stage.id: stage.fingerprint for stage in plan.stages}),
    }


def to_parquet(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file; schema metadata becomes the footer's."""
    sink = pa.BufferOutputStream()
    rows = max(1, int(table.num_rows * ROW_GROUP_BYTES / max(table.nbytes, 1)))
    repeating = [name for name in table.column_names if name in _REPEATING]
    pq.write_table(table, sink, compression="zstd", row_group_size=rows, use_dictionary=repeating)
    return bytes(memoryview(sink.getvalue()))
