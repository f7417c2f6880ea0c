"""Columns of Arrow tables as arrays."""

import pyarrow as pa


def as_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, without the copy that combine_chunks makes of a single chunk too."""
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
