"""Reading a lake: DuckDB with a view per table and one of its current rows, over local files or S3."""

from typing import Any, Final

import duckdb

from pipelines.store import Store
from pipelines.views import CURRENT, view_name
from schemas import layout
from schemas.tables import TABLES

_SQL_TYPES: Final = {
    "string": "VARCHAR",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "bool": "BOOLEAN",
    "binary": "BLOB",
    "timestamp[us, tz=UTC]": "TIMESTAMPTZ",
}

_STAND_INS: Final = """
SELECT table_name, string_agg('NULL::' || data_type || ' AS "' || column_name || '"', ', ' ORDER BY column_index)
FROM duckdb_columns() WHERE NOT internal GROUP BY table_name
"""


def open_lake(store: Store) -> duckdb.DuckDBPyConnection:
    """Return a connection with the views `<table>` and `current_<table>` of every table.

    A table without files is an empty view of its declared columns.
    """
    connection = duckdb.connect()
    if not store.is_local:
        connection.register_filesystem(store.filesystem)
    files = [path for path in store.list(layout.DATA) if path.endswith(".parquet")]
    for table in TABLES:
        paths = [store.url(path) for path in files if path.startswith(f"{layout.DATA}/{table}/")]
        connection.execute(f"CREATE VIEW {table} AS {_select(paths) if paths else _nothing(table)}")
    _add_current(connection)
    return connection


def _add_current(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the views of current rows, over stand-ins for the tables.

    Making a view opens every file that it reads, once for each time it names the table; a stand-in has no files.
    """
    for table, columns in connection.execute(_STAND_INS).fetchall():
        connection.execute(f"ALTER VIEW {table} RENAME TO {table}_files")
        connection.execute(f"CREATE VIEW {table} AS SELECT {columns} WHERE false")
    for table, select in CURRENT.items():
        connection.execute(f"CREATE VIEW {view_name(table)} AS {select}")
    for table in TABLES:
        connection.execute(f"DROP VIEW {table}")
        connection.execute(f"ALTER VIEW {table}_files RENAME TO {table}")


def _select(paths: list[str]) -> str:
    quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    types = "hive_types = {'corpus': VARCHAR, 'dt': DATE}"  # a corpus may be called 2024
    return f"SELECT * FROM read_parquet([{quoted}], hive_partitioning = true, {types}, union_by_name = true)"


def _nothing(table: str) -> str:
    columns = [f"NULL::{_sql_type(field.type)} AS {field.name}" for field in TABLES[table]]
    return f"SELECT {', '.join([*columns, 'NULL::VARCHAR AS corpus', 'NULL::DATE AS dt'])} WHERE false"


def _sql_type(kind: Any) -> str:
    """Return DuckDB's name of an Arrow type of our schemas."""
    text = str(kind)
    if text in _SQL_TYPES:
        return _SQL_TYPES[text]
    if text.startswith("map<"):
        return "MAP(VARCHAR, VARCHAR)"
    if hasattr(kind, "value_type"):
        return f"{_sql_type(kind.value_type)}[]"
    fields = ", ".join(f'"{field.name}" {_sql_type(field.type)}' for field in kind)
    return f"STRUCT({fields})"
