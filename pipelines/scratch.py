"""A database in memory for one question over the driver's Arrow tables; what outgrows its part of memory is spilled.

DuckDB alone would take four fifths of the machine, and spill into the folder where the command was started, which in a
container may not be written.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import duckdb
import pyarrow as pa

MEMORY: Final = "4GB"  # the tables asked about and the answer take as much again at ten million recordings


@contextmanager
def database(**tables: pa.Table) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a connection that knows these tables by name; its memory and its files go with it."""
    with (
        tempfile.TemporaryDirectory(prefix="phonolake-", ignore_cleanup_errors=True) as folder,
        duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": folder}) as connection,
    ):
        for name, table in tables.items():
            connection.register(name, table)
        yield connection
