"""Iceberg tables fed from sealed runs: what they hold, and that whatever happens each run is there exactly once."""

import datetime
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table
from pyiceberg.table.update import AddSnapshotUpdate
from test_lake import one_row
from warehouse_lake import CORPUS, DAY, sealed

from pipelines import iceberg
from pipelines.errors import RecipeError, WarehouseError
from pipelines.iceberg import ORDER, Registered, register
from pipelines.iceberg_catalog import open_catalog
from pipelines.lake import open_lake
from pipelines.parquet import to_parquet
from pipelines.store import Store
from schemas import layout, records
from schemas.tables import TABLES

COMMITS = 2 * len(TABLES)  # of two runs


@pytest.fixture
def store(tmp_path) -> Store:
    (tmp_path / "it's a lake").mkdir()
    return Store(str(tmp_path / "it's a lake"))


@pytest.fixture
def catalog(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/catalog.db"


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch):
    monkeypatch.setattr(iceberg, "FIRST_PAUSE_SECONDS", 0.001)


def published(store: Store, catalog: str) -> list[Registered]:
    return list(register(store, catalog))


def table(store: Store, catalog: str, name: str) -> Table:
    return open_catalog(store, catalog).load_table(f"phonolake.{name}")


def rows_of(found: pa.Table) -> list[dict[str, Any]]:
    """Rows of a table in an order of their own, times in UTC."""
    rows = [{**row, "ingested_at": row["ingested_at"].astimezone(datetime.UTC)} for row in found.to_pylist()]
    return sorted(rows, key=lambda row: (row["corpus_id"], row["run_id"]))


def runs_in(store: Store, catalog: str) -> dict[str, Counter]:
    """How many rows of each run every table holds, as its files say, and how many snapshots as its history does."""
    found = {name: table(store, catalog, name) for name in TABLES}
    rows = {name: one.scan(selected_fields=("run_id",)).to_arrow()["run_id"].to_pylist() for name, one in found.items()}
    snapshots = {
        name: Counter(snapshot.summary["phonolake.run"] for snapshot in one.metadata.snapshots)
        for name, one in found.items()
    }
    assert snapshots == {name: Counter(runs) for name, runs in rows.items()}, "a row and a snapshot a run"
    return snapshots


ONCE = {name: Counter({"00001": 1, "00002": 1}) for name in TABLES}


# What the tables hold


def test_every_row_reads_back_as_the_lake_holds_it_maps_lists_and_times_included(store, catalog):
    sealed(store, 1)
    sealed(store, 1, corpus="others")
    sealed(store, 2)
    published(store, catalog)
    lake = open_lake(store)
    for name, schema in TABLES.items():
        wanted = lake.sql(f"SELECT * EXCLUDE (corpus, dt) FROM {name}").to_arrow_table()
        found = table(store, catalog, name).scan().to_arrow()
        assert rows_of(found) == rows_of(wanted)
        assert len(rows_of(found)) == 3
        assert found.column_names == schema.names
        assert found.schema.field("ingested_at").type == pa.timestamp("us", tz="UTC")


def test_duckdb_reads_the_tables_by_arrow_and_by_the_files_that_a_snapshot_lists(store, catalog):
    sealed(store, 1)
    sealed(store, 2)
    published(store, catalog)
    for name in TABLES:
        one = table(store, catalog, name)
        wanted = rows_of(open_lake(store).sql(f"SELECT * EXCLUDE (corpus, dt) FROM {name}").to_arrow_table())
        by_arrow = one.scan().to_duckdb(name)
        assert rows_of(by_arrow.sql(f"SELECT * FROM {name}").to_arrow_table()) == wanted
        files = [task.file.file_path.removeprefix("file://") for task in one.scan().plan_files()]
        assert rows_of(duckdb.read_parquet(files, hive_partitioning=False).to_arrow_table()) == wanted


def test_the_files_are_the_lakes_own_in_partitions_of_their_corpus_and_day(store, catalog):
    seals = [sealed(store, 1), sealed(store, 1, corpus="others")]
    published(store, catalog)
    for name in TABLES:
        one = table(store, catalog, name)
        files = {file["file_path"]: file["partition"] for file in one.inspect.files().to_pylist()}
        assert files == {
            f"file://{store.full(file.path)}": {"corpus_id": seal.corpus, "ingested_at_day": datetime.date(2024, 5, 1)}
            for seal in seals
            for file in seal.files
            if file.table == name
        }
        assert [field.name for field in one.spec().fields] == ["corpus_id", "ingested_at_day"]
        assert one.scan(row_filter="corpus_id = 'others'").to_arrow()["corpus_id"].to_pylist() == ["others"]
        assert one.scan(row_filter=f"ingested_at < '{DAY}T00:00:00+00:00'").to_arrow().num_rows == 0


def test_columns_keep_their_descriptions(store, catalog):
    sealed(store, 1)
    published(store, catalog)
    for name, schema in TABLES.items():
        docs = {field.name: field.doc for field in table(store, catalog, name).schema().fields}
        assert docs == {field.name: field.metadata[b"description"].decode() for field in schema}


def test_every_table_gets_one_snapshot_a_run_in_order_empty_where_the_run_has_no_rows(store, catalog):
    sealed(store, 1, {"recordings": one_row("recordings", run_id="00001", corpus_id=CORPUS)})
    sealed(store, 2)
    made = published(store, catalog)
    assert [(one.run, one.table) for one in made] == [(run, name) for run in ("00001", "00002") for name in ORDER]
    assert ORDER[-1] == "recordings"
    assert [one.rows for one in made] == [*[0] * (len(TABLES) - 1), 1, *[1] * len(TABLES)]
    for name in TABLES:
        summaries = [snapshot.summary for snapshot in table(store, catalog, name).metadata.snapshots]
        assert [(one["phonolake.corpus"], one["phonolake.run"]) for one in summaries] == [
            (CORPUS, "00001"),
            (CORPUS, "00002"),
        ]


def test_a_run_that_is_not_sealed_is_not_registered(store, catalog):
    sealed(store, 1)
    store.put(layout.plan_file(CORPUS, "00002"), b"{}")
    store.put(layout.data_file("tags", CORPUS, DAY, "00002", 0), b"half a night")
    assert {one.run for one in published(store, catalog)} == {"00001"}


# Exactly once


def test_publishing_again_registers_nothing_and_commits_nothing(store, catalog):
    sealed(store, 1)
    assert len(published(store, catalog)) == len(TABLES)
    before = {name: table(store, catalog, name).metadata_location for name in TABLES}
    assert published(store, catalog) == []
    assert {name: table(store, catalog, name).metadata_location for name in TABLES} == before


def test_snapshots_that_were_expired_are_not_registered_again(store, catalog):
    sealed(store, 1)
    published(store, catalog)
    sealed(store, 2)
    published(store, catalog)
    for name in TABLES:
        one = table(store, catalog, name)
        one.maintenance.expire_snapshots().by_id(one.metadata.snapshots[0].snapshot_id).commit()
        assert len(table(store, catalog, name).metadata.snapshots) == 1
    assert published(store, catalog) == []
    assert table(store, catalog, "tags").scan().to_arrow().num_rows == 2


class Killed(BaseException):
    """The end of the process, which nothing catches."""


class Commits:
    """What happens at the commits that add a snapshot: `before` and `after` are given their number, from 1."""

    def __init__(self, monkeypatch, before=lambda number: None, after=lambda number: None) -> None:
        self.number = 0
        real, lock = SqlCatalog.commit_table, threading.Lock()

        def commit(catalog, table, requirements, updates):
            if not any(isinstance(update, AddSnapshotUpdate) for update in updates):
                return real(catalog, table, requirements, updates)
            with lock:
                self.number += 1
                number = self.number
            before(number)
            response = real(catalog, table, requirements, updates)
            after(number)
            return response

        monkeypatch.setattr(SqlCatalog, "commit_table", commit)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_commit_the_same_command_goes_on(store, catalog, monkeypatch, moment):
    sealed(store, 1)
    sealed(store, 2)

    def kill(number: int) -> None:  # the n-th life ends at its n-th commit
        if number == lives:
            raise Killed

    for lives in range(1, COMMITS + 1):  # noqa: B007 - kill looks at it
        with monkeypatch.context() as patched:
            Commits(patched, **{moment: kill})
            try:
                published(store, catalog)
            except Killed:
                continue
            break
    else:
        pytest.fail("it was killed every time")
    published(store, catalog)
    assert lives > 3
    assert runs_in(store, catalog) == ONCE


@pytest.mark.parametrize("error", [ConnectionError, CommitFailedException], ids=["no answer", "a wrong answer"])
def test_an_answer_that_was_lost_after_the_commit_does_not_double_a_run(store, catalog, monkeypatch, error):
    sealed(store, 1)
    sealed(store, 2)

    def lose(number: int) -> None:
        raise error("the commit stands, and its answer is lost")

    with monkeypatch.context() as patched:
        commits = Commits(patched, after=lose)
        made = published(store, catalog)
    assert commits.number == COMMITS, "nothing is tried again that stands"
    assert [one.run for one in made] == ["00001"] * len(TABLES) + ["00002"] * len(TABLES)
    assert runs_in(store, catalog) == ONCE


def test_a_catalog_that_fails_now_and_then_is_asked_again(store, catalog, monkeypatch):
    sealed(store, 1)
    sealed(store, 2)

    def refuse(number: int) -> None:
        if number % 3:
            raise ConnectionError("not now")

    with monkeypatch.context() as patched:
        Commits(patched, before=refuse)
        assert len(published(store, catalog)) == COMMITS
    assert runs_in(store, catalog) == ONCE


def test_a_publisher_that_another_overtakes_at_every_commit_registers_nothing_twice(store, catalog, monkeypatch):
    sealed(store, 1)
    sealed(store, 2)
    overtaking = threading.local()

    def overtake(number: int) -> None:
        if not getattr(overtaking, "busy", False):
            overtaking.busy = True
            published(store, catalog)  # the other does everything, between our look and our commit
            overtaking.busy = False

    with monkeypatch.context() as patched:
        commits = Commits(patched, before=overtake)
        published(store, catalog)
    assert commits.number > COMMITS, "ours came too late at least once"
    assert runs_in(store, catalog) == ONCE


def test_publishers_at_once_equal_one(store, catalog):
    sealed(store, 1)
    sealed(store, 2)
    published(store, catalog)
    for run in (3, 4):
        sealed(store, run)
    start = threading.Barrier(3)

    def publish() -> None:
        start.wait(30)
        published(store, catalog)

    with ThreadPoolExecutor(3) as publishers:
        for one in [publishers.submit(publish) for _ in range(3)]:
            one.result()
    four = Counter({layout.run_name(run): 1 for run in range(1, 5)})
    assert runs_in(store, catalog) == dict.fromkeys(TABLES, four)


def test_a_snapshot_that_another_writer_makes_meanwhile_costs_a_second_look_only(store, catalog, monkeypatch):
    sealed(store, 1)
    published(store, catalog)
    sealed(store, 2)

    def meanwhile(number: int) -> None:
        if number == 1:
            table(store, catalog, ORDER[0]).add_files([], {"phonolake.run": "00000"})

    commits = Commits(monkeypatch, before=meanwhile)
    published(store, catalog)
    assert commits.number == len(TABLES) + 2, "the other's, and one of ours that was refused"
    assert table(store, catalog, ORDER[0]).scan().to_arrow()["run_id"].to_pylist() == ["00002", "00001"]


# Columns of later releases


def test_a_table_of_an_older_release_gains_the_new_columns_and_its_rows_read_as_null(store, catalog, monkeypatch):
    sealed(store, 1)
    published(store, catalog)
    older = table(store, catalog, "tags").schema().column_names
    monkeypatch.setitem(
        TABLES, "tags", TABLES["tags"].append(pa.field("rank", pa.int32(), metadata={"description": "A place."}))
    )
    sealed(store, 2)
    published(store, catalog)
    one = table(store, catalog, "tags")
    assert one.schema().column_names == [*older, "rank"]
    found = one.scan().to_arrow()
    assert dict(zip(found["run_id"].to_pylist(), found["rank"].to_pylist(), strict=True)) == {"00001": None, "00002": 7}


def test_files_of_an_older_release_are_registered_in_a_table_that_has_more_columns(store, catalog):
    released = one_row("segments", run_id="00001", corpus_id=CORPUS).drop_columns("channel")
    sealed(store, 1, {"segments": released})
    sealed(store, 2)
    published(store, catalog)
    found = table(store, catalog, "segments").scan().to_arrow()
    runs = dict(zip(found["run_id"].to_pylist(), found["channel"].to_pylist(), strict=True))
    assert runs == {"00001": None, "00002": 7}


def test_a_column_that_this_release_does_not_know_is_refused(store, catalog):
    later = one_row("tags", corpus_id=CORPUS).append_column("rank", pa.array([1], pa.int32()))
    sealed(store, 1, {"tags": later})
    with pytest.raises(WarehouseError, match="rank"):
        published(store, catalog)
    assert table(store, catalog, "tags").metadata.snapshots == []


def test_a_table_of_a_later_release_is_refused_before_any_of_the_run_is_registered(store, catalog):
    seal = sealed(store, 1)
    seal.files.append(replace(seal.files[0], table="chords"))
    store.put(layout.seal_file(CORPUS, "00001"), records.to_json(seal))
    with pytest.raises(WarehouseError, match="tables of a later release: chords"):
        published(store, catalog)
    assert all(table(store, catalog, name).metadata.snapshots == [] for name in TABLES)


# What is refused


def test_a_file_that_has_other_rows_than_the_seal_says_is_not_registered(store, catalog):
    seal = sealed(store, 1)
    store.put(seal.files[5].path, to_parquet(pa.concat_tables([one_row("tags", corpus_id=CORPUS)] * 3)))
    with pytest.raises(WarehouseError, match=r"1 rows for phonolake\.tags by its seal and 3 by its files' footers"):
        published(store, catalog)
    assert table(store, catalog, "tags").metadata.snapshots == []


def test_a_file_that_is_gone_is_named_and_nothing_else_of_it_is_registered(store, catalog):
    seal = sealed(store, 1)
    store.delete(seal.files[5].path)
    with pytest.raises(WarehouseError, match=r"run 00001 of prompts does not fit phonolake\.tags"):
        published(store, catalog)
    assert table(store, catalog, "tags").metadata.snapshots == []


def test_rows_of_two_days_in_one_file_are_refused(store, catalog):
    other = one_row("tags", corpus_id=CORPUS, ingested_at=datetime.datetime(2024, 5, 2, tzinfo=datetime.UTC))
    sealed(store, 1, {"tags": pa.concat_tables([one_row("tags", corpus_id=CORPUS), other])})
    with pytest.raises(WarehouseError, match="more than one partition value"):
        published(store, catalog)


def test_two_lakes_do_not_share_a_namespace(store, catalog, tmp_path):
    sealed(store, 1)
    published(store, catalog)
    other = Store(str(tmp_path / "other"))
    sealed(other, 1)
    with pytest.raises(WarehouseError, match="choose another --namespace"):
        published(other, catalog)
    assert len(list(register(other, catalog, "others"))) == len(TABLES)


def test_a_catalog_that_nobody_configured_is_a_mistake_of_the_command(store):
    with pytest.raises(RecipeError, match="PYICEBERG_CATALOG__NIGHTLY__URI"):
        published(store, "nightly")


def test_a_uri_with_a_password_is_refused_and_not_repeated(store):
    with pytest.raises(RecipeError, match="give it a name") as refused:
        published(store, "postgresql://ada:secret@db/catalog")
    assert "secret" not in str(refused.value)


def test_a_catalog_that_does_not_answer_is_the_worlds_fault(store, tmp_path):
    with pytest.raises(WarehouseError, match="cannot open the catalog"):
        published(store, f"sqlite:///{tmp_path}/nowhere/catalog.db")


def test_a_configured_catalog_is_found_by_its_name(store, tmp_path, monkeypatch):
    monkeypatch.setenv("PYICEBERG_CATALOG__NIGHTLY__URI", f"sqlite:///{tmp_path}/nightly.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__NIGHTLY__WAREHOUSE", f"file://{tmp_path}/metadata")
    sealed(store, 1)
    assert len(published(store, "nightly")) == len(TABLES)
    assert (tmp_path / "metadata/phonolake/tags/metadata").is_dir()
    assert not store.list(layout.ICEBERG)
