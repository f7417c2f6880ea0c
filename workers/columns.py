"""Columns of Arrow tables as arrays."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa


def as_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, without the copy that combine_chunks makes of a single chunk too."""
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def is_finite(array: pa.Array) -> bool:
    """Tell whether no number in an array, however deep, is NaN or infinite."""
    return all(np.isfinite(leaf.drop_null().to_numpy()).all() for leaf in _numbers(array))


def _numbers(array: pa.Array) -> Iterator[pa.Array]:
    """Yield the arrays of floating-point numbers that lists and structs hold."""
    if pa.types.is_list(array.type):
        yield from _numbers(array.flatten())
    elif pa.types.is_struct(array.type):
        for column in array.flatten():
            yield from _numbers(column)
    elif pa.types.is_floating(array.type):
        yield array
