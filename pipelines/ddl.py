"""A lake's tables and its views of current rows, as the DDL of a warehouse: the files stay where they are.

What the tables hold is schemas.tables, what the views mean is pipelines.views; here stands only how each engine is told
to read Parquet in folders `corpus=<corpus>/dt=<day>`. All of a script may be run again, and is where one says so: when
a release brings columns, and where an engine does not find new folders by itself.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import pyarrow as pa

from pipelines.errors import RecipeError
from pipelines.lake_files import LakeFiles
from pipelines.sql_types import ATHENA, BIGQUERY, CLICKHOUSE, DUCKDB, REDSHIFT, SNOWFLAKE, SPARK, SqlTypes, is_nested
from pipelines.views import CURRENT, view_name
from schemas import layout
from schemas.tables import TABLES
from workers.stores import is_s3, split_s3

CLOUD: Final = {
    "bigquery": "gs://bucket/lake",
    "snowflake": "s3://bucket/lake",
    "athena": "s3://bucket/lake",
    "redshift": "s3://bucket/lake",
}
"""Engines that read no disk, and a place as each names it."""

DEFAULT_SCHEMA: Final = "phonolake"
VIEWS_SCHEMA: Final = "public"  # Redshift's own; no view can stand in an external schema

_GLOB: Final = re.compile(r"[*?\[]")
_REFERENCE: Final = re.compile(rf"\b(FROM|JOIN) ((?:current_)?(?:{'|'.join(TABLES)}))\b")
_ALL_OF: Final = re.compile(r"^SELECT (\w)\.\*\nFROM (\w+) ", re.MULTILINE)


def statements(lake: LakeFiles, dialect: str, schema: str = DEFAULT_SCHEMA) -> list[str]:
    """Return the statements that make tables and views, in their order; some begin with a comment.

    Raises:
        RecipeError: the engine reads buckets only, and the lake lies on a disk.
    """
    if dialect in CLOUD and "://" not in lake.root:
        raise RecipeError(
            f"{dialect} cannot read {lake.root}, a folder of this machine; say where it finds the lake, in a bucket or "
            f"a copy of it: --location {CLOUD[dialect]}"
        )
    return ENGINES[dialect](lake, schema)


def script(found: list[str]) -> str:
    """Return statements as a script."""
    return "\n\n".join(f"{statement};" for statement in found)


def _views(query: Callable[[str], str] = lambda text: text, name: str = "{}", end: str = "") -> list[str]:
    """Return the statements of the views; `query` adapts each one's text."""
    return [
        f"CREATE OR REPLACE VIEW {name.format(view_name(table))} AS\n{query(text)}{end}"
        for table, text in CURRENT.items()
    ]


def _columns(table: str, types: SqlTypes) -> list[str]:
    return [f"{types.column(field.name)} {types.name(field.type)}" for field in TABLES[table]]


def _block(lines: list[str]) -> str:
    return "(\n    " + ",\n    ".join(lines) + "\n)"


def _duckdb(lake: LakeFiles, schema: str) -> list[str]:
    about = "-- DuckDB: views that find new files by themselves, one night after the other."
    if is_s3(lake.root):
        host = f", ENDPOINT '{lake.endpoint.split('://')[-1]}', URL_STYLE 'path'" if lake.endpoint else ""
        about += f"\n-- Before them: INSTALL httpfs; CREATE SECRET (TYPE s3, PROVIDER credential_chain{host});"
    tables = []
    for table in TABLES:
        select = f"SELECT {', '.join(_nulls(table))} WHERE false"
        if lake.files[table]:
            folder = _GLOB.sub(r"[\g<0>]", lake.folder(table))  # a lake may be called lake [v1]
            place = DUCKDB.text(f"{folder}/corpus=*/dt=*/*.parquet")
            how = "hive_partitioning = true, hive_types = {'corpus': VARCHAR, 'dt': DATE}, union_by_name = true"
            select = f"SELECT * FROM read_parquet({place}, {how})"
        else:
            select = f"-- without files yet: run this again when it has some\n{select}"
        tables.append(f"CREATE OR REPLACE VIEW {table} AS\n{select}")
    return [f"{about}\n{tables[0]}", *tables[1:], *_views()]


def _nulls(table: str) -> list[str]:
    columns = [(field.name, DUCKDB.name(field.type)) for field in TABLES[table]]
    return [f'NULL::{kind} AS "{name}"' for name, kind in [*columns, ("corpus", "VARCHAR"), ("dt", "DATE")]]


def _spark(lake: LakeFiles, schema: str) -> list[str]:
    found = [
        "-- Spark: tables over the files. MSCK REPAIR TABLE takes up the folders of new nights, as it does below.\n"
        "-- Outside of EMR a lake in S3 is read as s3a://: make this with --location s3a://..."
    ]
    for table in TABLES:
        columns = _block([*_columns(table, SPARK), "`corpus` STRING", "`dt` DATE"])
        place = SPARK.text(lake.folder(table))
        found += [
            f"DROP TABLE IF EXISTS {table}",
            f"CREATE TABLE {table} {columns}\nUSING PARQUET\nPARTITIONED BY (corpus, dt)\nLOCATION {place}",
            f"MSCK REPAIR TABLE {table}",
        ]
    return [f"{found[0]}\n{found[1]}", *found[2:], *_views()]


def _athena(lake: LakeFiles, schema: str) -> list[str]:
    about = (
        "-- Athena: external tables whose folders are computed from the properties below (partition projection), so\n"
        "-- that new nights need nothing. A new corpus does: run this again. Athena takes one statement at a time."
    )
    found: list[str] = []
    for table in TABLES:
        properties = {
            "projection.enabled": "true",
            "projection.corpus.type": "enum",
            "projection.corpus.values": ",".join(lake.corpora) or "none",
            "projection.dt.type": "date",
            "projection.dt.format": "yyyy-MM-dd",
            "projection.dt.range": f"{lake.first_day},NOW",
            "storage.location.template": f"{lake.folder(table)}/corpus=${{corpus}}/dt=${{dt}}/",
        }
        listed = _block([f"'{key}' = {ATHENA.text(value)}" for key, value in properties.items()])
        found += [
            f"DROP TABLE IF EXISTS `{table}`",
            f"CREATE EXTERNAL TABLE `{table}` {_block(_columns(table, ATHENA))}\n"
            f"PARTITIONED BY (`corpus` string, `dt` string)\nSTORED AS PARQUET\n"
            f"LOCATION {ATHENA.text(lake.folder(table) + '/')}\nTBLPROPERTIES {listed}",
        ]
    return [f"{about}\n{found[0]}", *found[1:], *_views()]


def _redshift(lake: LakeFiles, schema: str) -> list[str]:
    about = (
        f"-- Redshift Spectrum: an external schema of the Glue database {schema}, where every folder is a partition\n"
        "-- that must be named: run this again after a night. Redshift returns no array or map as a column, so the\n"
        f"-- views leave those out; join {schema}.<table> for them (FROM {schema}.embeddings e, e.vector v)."
    )
    found = [
        f"{about}\nCREATE EXTERNAL SCHEMA IF NOT EXISTS {schema} FROM DATA CATALOG DATABASE '{schema}'\n"
        "IAM_ROLE default CREATE EXTERNAL DATABASE IF NOT EXISTS"
    ]
    for table in TABLES:
        place = lake.folder(table)
        found += [
            f"DROP TABLE IF EXISTS {schema}.{table}",
            f"CREATE EXTERNAL TABLE {schema}.{table} {_block(_columns(table, REDSHIFT))}\n"
            f"PARTITIONED BY (corpus varchar(64), dt date)\nSTORED AS PARQUET\nLOCATION {REDSHIFT.text(place + '/')}",
        ]
        found += [
            f"ALTER TABLE {schema}.{table} ADD IF NOT EXISTS PARTITION (corpus='{corpus}', dt='{day}')\n"
            f"LOCATION {REDSHIFT.text(f'{place}/corpus={corpus}/dt={day}/')}"
            for corpus, day in lake.partitions(table)
        ]
    adapt = partial(_qualified, tables=schema, views=VIEWS_SCHEMA)
    views = _views(lambda text: adapt(_flat(text)), f"{VIEWS_SCHEMA}.{{}}", "\nWITH NO SCHEMA BINDING")
    return [*found, *views]


def _flat(text: str) -> str:
    """Return a view's query with the columns that hold one value each in place of all."""
    plain = {name: [one.name for one in schema if not is_nested(one.type)] for name, schema in TABLES.items()}
    return _spelled_out(text, plain, "{alias}.{name}")


def _spelled_out(text: str, columns: Mapping[str, list[str]], column: str) -> str:
    """Return a view's query with these columns of its table, and the path's, in place of all."""

    def named(match: re.Match[str]) -> str:
        alias, table = match.groups()
        names = [*columns[table], "corpus", "dt"]
        return f"SELECT {', '.join(column.format(alias=alias, name=name) for name in names)}\nFROM {table} "

    return _ALL_OF.sub(named, text)


def _qualified(text: str, tables: str, views: str) -> str:
    """Return a view's query with every table and view named by its schema."""

    def full(match: re.Match[str]) -> str:
        word, name = match.groups()
        return f"{word} {views if name.startswith('current_') else tables}.{name}"

    return _REFERENCE.sub(full, text)


def _bigquery(lake: LakeFiles, schema: str) -> list[str]:
    root = lake.root.replace("s3://", "gs://", 1)
    about = (
        "-- BigQuery: external tables that find new nights by themselves. Columns are those of each table's newest\n"
        "-- file, since columns are only ever added: run this again after a release that adds some. A table without\n"
        "-- files is an empty one of BigQuery's own; when it has some, drop it and run this again.\n"
        f"-- It reads the lake at {root}: in Cloud Storage, a copy of the\n"
        "-- lake's data/; --location says otherwise. A bucket on AWS needs BigQuery Omni: make this with\n"
        "-- --location s3://..., and add WITH CONNECTION to each table. Parsed in its dialect, not run on BigQuery."
    )
    found = [f"{about}\nCREATE SCHEMA IF NOT EXISTS {schema}"]
    for table in TABLES:
        found.append(_bigquery_table(lake, lake.folder(table).replace(lake.root, root), table, schema))
    adapt = partial(_qualified, tables=schema, views=schema)
    return [*found, *_views(adapt, f"{schema}.{{}}")]


def _bigquery_table(lake: LakeFiles, place: str, table: str, schema: str) -> str:
    if not lake.files[table]:  # an external table without files cannot be read
        columns = _block([*_columns(table, BIGQUERY), "corpus STRING", "dt DATE"])
        return f"CREATE TABLE IF NOT EXISTS {schema}.{table} {columns}"
    newest = lake.files[table][-1].removeprefix(f"{layout.DATA}/{table}")
    options = {
        "format": "'PARQUET'",
        "uris": f"[{BIGQUERY.text(place + '/*')}]",
        "hive_partition_uri_prefix": BIGQUERY.text(place),
        "require_hive_partition_filter": "false",
        "enable_list_inference": "true",
        "reference_file_schema_uri": BIGQUERY.text(place + newest),
    }
    listed = _block([f"{key} = {value}" for key, value in options.items()])
    return (
        f"CREATE OR REPLACE EXTERNAL TABLE {schema}.{table}\n"
        f"WITH PARTITION COLUMNS (corpus STRING, dt DATE)\nOPTIONS {listed}"
    )


def _snowflake(lake: LakeFiles, schema: str) -> list[str]:
    about = (
        "-- Snowflake: external tables, which need nothing but a storage integration (here called phonolake) that may\n"
        "-- read the bucket. New nights: ALTER EXTERNAL TABLE ... REFRESH, which stands in here, or AUTO_REFRESH with\n"
        "-- the bucket's notifications. Where the lake is published as Iceberg tables to a catalog that Snowflake\n"
        "-- reads (Glue, REST), its Iceberg tables are faster: CREATE ICEBERG TABLE ... CATALOG_TABLE_NAME."
    )
    place = SNOWFLAKE.text(lake.root.replace("gs://", "gcs://", 1))
    found = [f"{about}\nCREATE STAGE IF NOT EXISTS phonolake\nURL = {place}\nSTORAGE_INTEGRATION = phonolake"]
    for table in TABLES:
        keys = [
            "CORPUS VARCHAR AS (REGEXP_SUBSTR(METADATA$FILENAME, '/corpus=([^/]+)/', 1, 1, 'e'))",
            "DT DATE AS (TO_DATE(REGEXP_SUBSTR(METADATA$FILENAME, '/dt=([^/]+)/', 1, 1, 'e')))",
        ]
        columns = [
            f'"{field.name.upper()}" {kind} AS (VALUE:"{field.name}"::{kind})'
            for field in TABLES[table]
            for kind in [SNOWFLAKE.name(field.type)]
        ]
        found += [
            f"CREATE OR REPLACE EXTERNAL TABLE {table} {_block([*columns, *keys])}\nPARTITION BY (CORPUS, DT)\n"
            f"LOCATION = @phonolake/{layout.DATA}/{table}/\nPATTERN = '.*[.]parquet'\nAUTO_REFRESH = FALSE\n"
            "FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE)",
            f"ALTER EXTERNAL TABLE {table} REFRESH",
        ]
    return [*found, *_views()]


def _clickhouse(lake: LakeFiles, schema: str) -> list[str]:
    about = (
        "-- ClickHouse: views over the files, which find new nights by themselves. Every column may be null, as those\n"
        "-- of older files are where a release added some, but lists and maps, which read as empty then."
    )
    tables = []
    for table in TABLES:
        columns = [f"{CLICKHOUSE.column(field.name)} {_or_null(field.type)}" for field in TABLES[table]]
        structure = ", ".join([*columns, "`corpus` String", "`dt` Date"])
        call = f"{_clickhouse_place(lake, table)}, 'Parquet', {CLICKHOUSE.text(structure)}"
        function = "s3" if "://" in lake.root else "file"
        tables.append(f"CREATE OR REPLACE VIEW {table} AS\nSELECT * FROM {function}({call})")
    names = {table: schema.names for table, schema in TABLES.items()}  # a join of three calls them `f.uri` otherwise
    views = _views(partial(_spelled_out, columns=names, column="{alias}.`{name}` AS `{name}`"))
    return [f"{about}\n{tables[0]}", *tables[1:], *views]


def _or_null(kind: pa.DataType) -> str:
    name = CLICKHOUSE.name(kind)
    return name if is_nested(kind) else f"Nullable({name})"


def _clickhouse_place(lake: LakeFiles, table: str) -> str:
    place = lake.folder(table)
    if lake.endpoint:
        place = "/".join([lake.endpoint.rstrip("/"), *split_s3(place)])
    return CLICKHOUSE.text(f"{place}/corpus=*/dt=*/*.parquet")


ENGINES: Final[Mapping[str, Callable[[LakeFiles, str], list[str]]]] = {
    "duckdb": _duckdb,
    "bigquery": _bigquery,
    "snowflake": _snowflake,
    "athena": _athena,
    "redshift": _redshift,
    "spark": _spark,
    "clickhouse": _clickhouse,
}
"""By the name that `phonolake ddl --dialect` takes."""
