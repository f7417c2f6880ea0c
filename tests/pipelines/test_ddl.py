"""The DDL of warehouses: run where the engine runs here, else parsed in its dialect."""

import datetime
import shutil
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import sqlglot
from sqlglot import exp
from test_lake import one_row
from test_views import STAGES, History

from pipelines.ddl import script, statements
from pipelines.errors import RecipeError
from pipelines.lake import open_lake
from pipelines.lake_files import look_at
from pipelines.parquet import to_parquet
from pipelines.sql_types import TYPES
from pipelines.store import Store
from pipelines.views import CURRENT, view_name
from schemas import layout
from schemas.tables import TABLES

DIALECTS = list(TYPES)
NAMES = [*TABLES, *(view_name(table) for table in CURRENT)]
S3 = "s3://lake/speech"
UNPARSED = {
    "bigquery": {"CREATE OR REPLACE EXTERNAL TABLE": "sqlglot has no WITH PARTITION COLUMNS"},
    "snowflake": {"ALTER EXTERNAL TABLE": "sqlglot has no REFRESH"},
    "redshift": {"CREATE EXTERNAL SCHEMA": "sqlglot has no external schemas"},
    "spark": {"MSCK REPAIR TABLE": "sqlglot keeps it as words"},
}
"""What sqlglot takes as a list of words, without a look at it, and why."""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """A lake in which every view leaves something out: changed, failed, retried and recut recordings, two corpora."""
    history = History()
    for run, recording in [(1, "/a#1"), (2, "/a#2"), (1, "/b#1"), (1, "/c#1")]:
        history.decoded(run, recording, segments=2)
        for stage in STAGES:
            history.computed(run, recording, stage, labels=2)
    history.computed(2, "/b#1", "tags/yamnet")
    history.failed(2, "/c#2")
    history.failed(1, "/b#1", "embeddings/yamnet", segment=1)
    history.computed(3, "/b#1", "embeddings/yamnet", segment=1)
    history.failed(1, "/b#1", "tags/yamnet", segment=1)
    for run in (1, 2):
        history.failed(run, "/d#1", "fetch")
    history.decoded(3, "/d#1", segments=1)
    history.decoded(1, "/a#1", corpus="2024")
    history.failed(2, "/a#1", "fetch", corpus="2024")
    store = Store(str(tmp_path_factory.mktemp("it's") / "a lake"))
    for table, rows in history.rows.items():
        runs = defaultdict(list)
        for row in rows:
            runs[row["corpus_id"], row["run_id"]].append(row)
        for (corpus, run), ones in runs.items():
            path = layout.data_file(table, corpus, f"2024-05-0{run[-1]}", run, 0)
            store.put(path, to_parquet(pa.Table.from_pylist(ones, TABLES[table])))
    return store


def made(store: Store, dialect: str, location: str | None = None) -> list[str]:
    return statements(look_at(store, location), dialect)


Rows = list[tuple[Any, ...]]


def plain_rows(query: Callable[[str], pa.Table], name: str) -> Rows:
    """The rows of a table or view, sorted, by the columns that hold text; nulls as "null"."""
    columns = [field.name for field in TABLES[name.removeprefix("current_")] if field.type == pa.string()]
    found = query(f"SELECT {', '.join(columns)}, corpus, CAST(dt AS VARCHAR) AS dt FROM {name}")
    return sorted(tuple("null" if value is None else value for value in row.values()) for row in found.to_pylist())


@pytest.fixture(scope="module")
def lake(store) -> duckdb.DuckDBPyConnection:
    return open_lake(store)


def lake_rows(lake: duckdb.DuckDBPyConnection, name: str) -> Rows:
    return plain_rows(lambda sql: lake.sql(sql).to_arrow_table(), name)


def test_the_lake_of_these_tests_has_something_to_show_and_to_leave_out_in_every_view(lake):
    for table in TABLES:
        assert 0 < len(lake_rows(lake, view_name(table))) < len(lake_rows(lake, table))


# DuckDB


@pytest.fixture(scope="module")
def by_duckdb(store) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for _ in range(2):  # run again, it replaces everything
        connection.execute(script(made(store, "duckdb")))
    return connection


@pytest.mark.parametrize("name", NAMES)
def test_duckdbs_views_are_those_of_phonolake_query_row_for_row_and_type_for_type(lake, by_duckdb, name):
    found, wanted = (one.sql(f"FROM {name}").to_arrow_table() for one in (by_duckdb, lake))
    assert found.schema.equals(wanted.schema)
    assert sorted(map(str, found.to_pylist())) == sorted(map(str, wanted.to_pylist()))


def test_duckdbs_views_find_the_files_of_a_later_night(tmp_path):
    store = Store(str(tmp_path))
    connection = duckdb.connect()
    store.put(layout.data_file("tags", "prompts", "2024-05-01", "00001", 0), to_parquet(one_row("tags")))
    connection.execute(script(made(store, "duckdb")))
    store.put(layout.data_file("tags", "prompts", "2024-05-02", "00002", 0), to_parquet(one_row("tags")))
    days = [datetime.date(2024, 5, day) for day in (1, 2)]
    assert connection.sql("SELECT dt FROM tags ORDER BY dt").fetchall() == [(day,) for day in days]


@pytest.mark.parametrize("name", ["lake [v1]", "la*ke?", "la#ke%20é", "it's", "[[a]]"])
def test_duckdb_finds_a_lake_whatever_it_is_called(tmp_path, name):
    for place in (name, "lake v"):  # a glob would find this one too
        store = Store(str(tmp_path / place))
        store.put(layout.data_file("tags", "prompts", "2024-05-01", "00001", 0), to_parquet(one_row("tags")))
    connection = duckdb.connect()
    connection.execute(script(made(Store(str(tmp_path / name)), "duckdb")))
    assert connection.sql("SELECT count(*) FROM tags").fetchall() == [(1,)]


@pytest.mark.parametrize("dialect", ["bigquery", "snowflake", "athena", "redshift"])
def test_an_engine_that_reads_no_disk_is_told_where_the_lake_is(store, dialect):
    for place in (None, "/mnt/lake"):
        with pytest.raises(RecipeError, match=f"{dialect} cannot read .*--location") as caught:
            made(store, dialect, place)
        assert caught.value.exit_code == 2
    assert made(store, dialect, S3)


def test_duckdbs_tables_without_files_are_empty_with_the_declared_columns(tmp_path):
    connection = duckdb.connect()
    connection.execute(script(made(Store(str(tmp_path)), "duckdb")))
    empty = open_lake(Store(str(tmp_path)))
    for name in NAMES:
        found = connection.sql(f"FROM {name}").to_arrow_table()
        assert found.num_rows == 0
        assert found.schema.equals(empty.sql(f"FROM {name}").to_arrow_table().schema)


# ClickHouse and Spark, where they are: chdb weighs 180 MB and pyspark 400, too much for every set-up


def test_clickhouses_views_are_those_of_phonolake_query(store, lake):
    session = pytest.importorskip("chdb.session", reason="pip install chdb: ClickHouse in process").Session()
    for _ in range(2):
        for statement in made(store, "clickhouse"):
            session.query(statement)
    for name in NAMES:
        assert plain_rows(lambda sql: session.query(sql, "ArrowTable"), name) == lake_rows(lake, name), name


def test_clickhouse_reads_every_type(tmp_path):
    session = pytest.importorskip("chdb.session", reason="pip install chdb: ClickHouse in process").Session()
    store = Store(str(tmp_path))
    for table in TABLES:
        store.put(layout.data_file(table, "prompts", "2024-05-01", "00001", 0), to_parquet(one_row(table)))
    for statement in made(store, "clickhouse"):
        session.query(statement)
    for table, schema in TABLES.items():
        [found] = session.query(f"SELECT * FROM {table}", "ArrowTable").to_pylist()
        [wanted] = one_row(table).to_pylist()
        assert {name: found[name] for name in schema.names} == wanted


@pytest.mark.filterwarnings("ignore")
def test_sparks_views_are_those_of_phonolake_query(store, lake, tmp_path):
    pyspark = pytest.importorskip("pyspark.sql", reason="pip install pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs java")
    options = {"spark.ui.enabled": "false", "spark.sql.warehouse.dir": str(tmp_path), "spark.sql.shuffle.partitions": 2}
    spark = pyspark.SparkSession.builder.master("local[1]").config(map=options).getOrCreate()
    try:
        for _ in range(2):
            for statement in made(store, "spark"):
                spark.sql(statement)
        for name in NAMES:
            found = plain_rows(lambda sql: spark.sql(sql.replace("VARCHAR", "STRING")).toArrow(), name)
            assert found == lake_rows(lake, name), name
    finally:
        spark.stop()


# The others


def location(dialect: str) -> str:
    return "gs://lake/speech" if dialect == "bigquery" else S3


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_statement_is_read_by_sqlglot_in_its_dialect_but_those_it_is_known_not_to_know(store, dialect):
    commands = set()
    for statement in made(store, dialect, location(dialect)):
        tree = sqlglot.parse_one(statement, dialect=dialect, error_level=sqlglot.ErrorLevel.RAISE)
        if isinstance(tree, exp.Command):
            text = " ".join(line for line in statement.splitlines() if not line.startswith("--"))
            commands |= {start for start in UNPARSED[dialect] if text.startswith(start)} or {text}
    assert commands == set(UNPARSED.get(dialect, {}))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_views_are_the_one_text_of_all_engines_in_each_dialect(store, dialect):
    found = made(store, dialect, location(dialect))[-len(CURRENT) :]
    for (table, query), statement in zip(CURRENT.items(), found, strict=True):
        tree = sqlglot.parse_one(statement, dialect=dialect, error_level=sqlglot.ErrorLevel.RAISE)
        assert tree.args["kind"] == "VIEW"
        assert tree.args["replace"]
        assert tree.this.name == view_name(table)
        if dialect not in ("redshift", "clickhouse"):  # where columns are named
            assert without_schemas(tree.expression).sql() == sqlglot.parse_one(query, dialect="duckdb").sql()
        transpiled = sqlglot.transpile(query, read="duckdb", write=dialect, error_level=sqlglot.ErrorLevel.RAISE)
        assert sqlglot.parse_one(transpiled[0], dialect=dialect, error_level=sqlglot.ErrorLevel.RAISE)


def without_schemas(tree: exp.Expression) -> exp.Expression:
    """A query without the schemas of its tables; how nulls are ordered does not matter, none are."""
    for node in tree.walk():
        for nuance in ("nulls_first", "safe", *(["db"] if isinstance(node, exp.Table) else [])):
            node.args.pop(nuance, None)
    return sqlglot.parse_one(tree.sql())


@pytest.mark.parametrize("dialect", ["snowflake", "athena", "redshift", "spark"])
@pytest.mark.parametrize("table", TABLES)
def test_an_external_table_has_every_column_of_the_schema_in_its_order(store, dialect, table):
    trees = [sqlglot.parse_one(one, dialect=dialect) for one in made(store, dialect, S3)]
    [tree] = [one for one in trees if isinstance(one, exp.Create) and one.find(exp.Table).name.lower() == table]
    columns = [column.name.lower() for column in tree.this.find_all(exp.ColumnDef) if column.parent is tree.this]
    assert columns[: len(TABLES[table])] == TABLES[table].names
    keys = [column.name.lower() for column in tree.find_all(exp.ColumnDef)]
    assert {"corpus", "dt"} <= set(keys)


@pytest.mark.parametrize("table", TABLES)
def test_clickhouses_views_differ_from_the_one_text_by_naming_the_columns_only(store, table):
    [view] = [one for one in made(store, "clickhouse", S3) if f"VIEW current_{table} AS" in one]
    tree = sqlglot.parse_one(view, dialect="clickhouse")
    last = [select for select in tree.find_all(exp.Select) if "dt" in select.named_selects]
    for select in last:
        assert select.named_selects == [*TABLES[table].names, "corpus", "dt"]
        alias = select.expressions[0].this.table
        select.set("expressions", [exp.Column(this=exp.Star(), table=exp.to_identifier(alias))])
    assert len(last) == (2 if table == "failures" else 1)
    assert without_schemas(tree.expression).sql() == sqlglot.parse_one(CURRENT[table], dialect="duckdb").sql()


@pytest.mark.parametrize("dialect", ["bigquery", "redshift"])
def test_where_views_need_it_every_table_is_named_by_its_schema(store, dialect):
    for statement in statements(look_at(store, location(dialect)), dialect, "night")[-len(CURRENT) :]:
        tree = sqlglot.parse_one(statement, dialect=dialect)
        ctes = {cte.alias for cte in tree.find_all(exp.CTE)}
        named = {(one.db, one.name) for one in tree.find_all(exp.Table) if one.name not in ctes}
        views = "night" if dialect == "bigquery" else "public"
        assert named == {(views if name.startswith("current_") else "night", name) for _, name in named}


def test_redshifts_views_hold_the_columns_of_one_value_each(store):
    views = [one for one in made(store, "redshift", S3) if "WITH NO SCHEMA BINDING" in one]
    assert len(views) == len(CURRENT)
    assert not any("*" in view or "vector" in view or "words" in view for view in views)
    assert "SELECT t.recording_id, t.run_id" in views[3]


def test_redshift_is_told_every_folder(store):
    found = [one for one in made(store, "redshift", S3) if one.startswith("ALTER TABLE phonolake.failures ")]
    folders = [one.split("LOCATION ")[1] for one in found]
    assert folders == [
        f"'{S3}/data/failures/{folder}/'"
        for folder in (
            "corpus=2024/dt=2024-05-02",
            *(f"corpus=prompts/dt=2024-05-0{run}" for run in (1, 2)),
        )
    ]


def test_athena_computes_the_folders_from_the_corpora_and_the_first_day(store):
    [table] = [one for one in made(store, "athena", S3) if "CREATE EXTERNAL TABLE `tags`" in one]
    assert "'projection.corpus.values' = '2024,prompts'" in table
    assert "'projection.dt.range' = '2024-05-01,NOW'" in table
    assert f"'storage.location.template' = '{S3}/data/tags/corpus=${{corpus}}/dt=${{dt}}/'" in table


def test_bigquery_takes_the_columns_of_each_tables_newest_file_and_owns_what_has_none(store, tmp_path):
    [table] = [one for one in made(store, "bigquery", S3) if "TABLE phonolake.tags\n" in one]
    assert "uris = ['gs://lake/speech/data/tags/*']" in table
    assert "reference_file_schema_uri = 'gs://lake/speech/data/tags/corpus=prompts/dt=2024-05-02/00002" in table
    [table] = [one for one in made(Store(str(tmp_path)), "bigquery", S3) if "phonolake.tags" in one and "EXISTS" in one]
    assert table.startswith("CREATE TABLE IF NOT EXISTS phonolake.tags (\n    `recording_id` STRING")
    assert sqlglot.parse_one(table, dialect="bigquery").args["kind"] == "TABLE"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_views_come_after_what_they_read(store, dialect):
    found = made(store, dialect, location(dialect))
    places = [
        next(i for i, one in enumerate(found) if f"VIEW {prefix}{view_name(table)} AS" in one)
        for table in CURRENT
        for prefix in [{"bigquery": "phonolake.", "redshift": "public."}.get(dialect, "")]
    ]
    assert all(one < other for one, other in pairwise(places))
    assert places == list(range(len(found) - len(CURRENT), len(found)))
