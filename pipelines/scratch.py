"""A database in memory for one question over the driver's Arrow tables, let go of when it is answered.

What outgrows the memory that the machine or the container has is spilled, as far as DuckDB can: into the folder for
temporary files, and not into the one where the command was started, which in a container may not be written.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

SLICE_ROWS: Final = 4_000_000  # asked about together; all thirty million of a large run would take three times as much
SAMPLED: Final = 10_000  # values from which it is told where a slice ends

Span = tuple[str | None, str | None]
"""Values from the first up to before the second; None where there is no bound."""


@contextmanager
def database(memory: str | None = None, **tables: pa.Table) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a connection that knows these tables by name; its memory and its files go with it.

    `memory`, such as 2GB, is a bound for questions that can be spilled as a whole: to sort is one, to group is none.
    """
    bound: dict[str, str | bool | int | float | list[str]] = {"memory_limit": memory} if memory else {}
    with (
        tempfile.TemporaryDirectory(prefix="phonolake-", ignore_cleanup_errors=True) as folder,
        duckdb.connect(config={"temp_directory": folder, **bound}) as connection,
    ):
        for name, table in tables.items():
            connection.register(name, table)
        yield connection


def spans(values: pa.ChunkedArray, rows: int) -> list[Span]:
    """Return spans of a column's values, lower ones first, so that each holds about SLICE_ROWS of so many rows."""
    count = max(1, -(-rows // SLICE_ROWS))
    step = max(1, len(values) // SAMPLED)
    sample = values.take(pa.array(range(0, len(values), step), pa.int64())).sort().to_pylist()
    cuts = [sample[len(sample) * number // count] for number in range(1, count)] if sample else []
    return list(zip([None, *cuts], [*cuts, None], strict=True))


def within(table: pa.Table, column: str, span: Span) -> pa.Table:
    """Return the rows with a value in a span."""
    low, high = span
    for bound, holds in ((low, pc.greater_equal), (high, pc.less)):
        table = table.filter(holds(table[column], bound)) if bound is not None else table
    return table
