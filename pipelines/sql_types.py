"""What the columns of the tables are called in each SQL dialect."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class SqlTypes:
    """One dialect's names of the types that our schemas use, and how it quotes a column and a text."""

    leaves: tuple[str, str, str, str, str, str, str, str]  # in the order of _LEAVES
    a_list: str
    a_map: str  # of text to text
    a_struct: str
    member: str  # of a struct: `{name}` and `{kind}`
    quote: str = '"'
    escape: str = "''"  # a quote in a text

    def name(self, kind: Any) -> str:
        """Return what a column's Arrow type is called."""
        if pa.types.is_map(kind):
            return self.a_map
        if pa.types.is_list(kind):
            return self.a_list.format(self.name(kind.value_type))
        if pa.types.is_struct(kind):
            return self.a_struct.format(", ".join(self._member(field) for field in kind))
        return self.leaves[_LEAVES.index(str(kind))]

    def column(self, name: str) -> str:
        """Return a column's name, quoted: `values` and `end` are words of SQL."""
        return f"{self.quote}{name}{self.quote}"

    def text(self, value: str) -> str:
        """Return a text as a literal."""
        return "'" + value.replace("'", self.escape) + "'"

    def _member(self, field: pa.Field) -> str:
        return self.member.format(name=self.column(field.name), kind=self.name(field.type))


_LEAVES: Final = ("string", "int32", "int64", "float", "double", "bool", "timestamp[us, tz=UTC]", "binary")

DUCKDB: Final = SqlTypes(
    ("VARCHAR", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "BOOLEAN", "TIMESTAMPTZ", "BLOB"),
    *("{}[]", "MAP(VARCHAR, VARCHAR)", "STRUCT({})", "{name} {kind}"),
)
SPARK: Final = SqlTypes(
    ("STRING", "INT", "BIGINT", "FLOAT", "DOUBLE", "BOOLEAN", "TIMESTAMP", "BINARY"),
    *("ARRAY<{}>", "MAP<STRING, STRING>", "STRUCT<{}>", "{name}: {kind}"),
    *("`", "\\'"),
)
ATHENA: Final = SqlTypes(
    ("string", "int", "bigint", "float", "double", "boolean", "timestamp", "binary"),
    *("array<{}>", "map<string, string>", "struct<{}>", "{name}: {kind}"),
    *("`", "\\'"),
)
REDSHIFT: Final = SqlTypes(
    ("varchar(65535)", "int", "bigint", "real", "double precision", "boolean", "timestamp", "varbyte(16777216)"),
    *("array<{}>", "map<varchar(65535), varchar(65535)>", "struct<{}>", "{name}: {kind}"),
)
SNOWFLAKE: Final = SqlTypes(
    ("VARCHAR", "INTEGER", "BIGINT", "FLOAT", "FLOAT", "BOOLEAN", "TIMESTAMP_LTZ", "BINARY"),
    *("VARIANT", "VARIANT", "VARIANT", ""),
)
BIGQUERY: Final = SqlTypes(
    ("STRING", "INT64", "INT64", "FLOAT64", "FLOAT64", "BOOL", "TIMESTAMP", "BYTES"),
    *("ARRAY<{}>", "STRUCT<key_value ARRAY<STRUCT<key STRING, value STRING>>>", "STRUCT<{}>", "{name} {kind}"),
    *("`", "\\'"),
)
CLICKHOUSE: Final = SqlTypes(
    ("String", "Int32", "Int64", "Float32", "Float64", "Bool", "DateTime64(6, 'UTC')", "String"),
    *("Array({})", "Map(String, String)", "Tuple({})", "{name} Nullable({kind})"),
    *("`", "''"),
)

TYPES: Final[Mapping[str, SqlTypes]] = {
    "duckdb": DUCKDB,
    "bigquery": BIGQUERY,
    "snowflake": SNOWFLAKE,
    "athena": ATHENA,
    "redshift": REDSHIFT,
    "spark": SPARK,
    "clickhouse": CLICKHOUSE,
}
"""By the name that `phonolake ddl --dialect` takes."""


def is_nested(kind: pa.DataType) -> bool:
    """Whether a column holds more than one value."""
    return bool(pa.types.is_nested(kind))
