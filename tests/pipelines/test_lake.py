"""A lake in SQL: two views a table, with the declared columns whether there are files or not."""

import datetime
from collections import Counter

import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem

from pipelines.lake import open_lake
from pipelines.parquet import to_parquet
from pipelines.store import Store
from schemas import layout, tables
from schemas.tables import TABLES

PLANNED = datetime.datetime(2024, 5, 1, 23, 30, tzinfo=datetime.UTC)
VALUES = {
    pa.string(): "x",
    pa.int32(): 7,
    pa.int64(): 7,
    pa.float32(): 0.5,
    pa.float64(): 0.5,
    pa.bool_(): True,
    pa.timestamp("us", tz="UTC"): PLANNED,
    pa.map_(pa.string(), pa.string()): [("speaker", "ada")],
    pa.list_(pa.float32()): [0.5, 0.25],
    pa.list_(pa.string()): ["repetitive"],
    tables.AUDIO: {"bytes": b"fLaC", "path": "x.flac"},
}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "it's a lake"))


def one_row(table: str, **values) -> pa.Table:
    """A row of `table` with a value in every column."""
    words = [{"word": "hello", "start": 0.0, "end": 0.5, "probability": 0.5}]
    row = {field.name: VALUES.get(field.type, words) for field in TABLES[table]}
    return pa.Table.from_pylist([{**row, **values}], TABLES[table])


def fill(
    store: Store, table: str, corpus: str = "prompts", day: str = "2024-05-01", run: str = "00001", **values
) -> None:
    store.put(layout.data_file(table, corpus, day, run, 0), to_parquet(one_row(table, **values)))


def view(store: Store, table: str) -> list[tuple[str, str]]:
    """Names and types of a view's columns, as DuckDB describes them."""
    return [tuple(row[:2]) for row in open_lake(store).sql(f"DESCRIBE SELECT * FROM {table}").fetchall()]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("which", ["", "current_"])
def test_on_an_empty_lake_a_view_is_empty_with_the_declared_columns(store, table, which):
    found = open_lake(store).sql(f"SELECT * FROM {which}{table}").to_arrow_table()
    assert found.num_rows == 0
    assert found.column_names == [*TABLES[table].names, "corpus", "dt"]


@pytest.mark.parametrize("table", TABLES)
def test_a_view_has_the_same_columns_and_types_before_and_after_the_first_file(store, table):
    before = view(store, table)
    assert view(store, f"current_{table}") == before
    fill(store, table)
    assert view(store, table) == view(store, f"current_{table}") == before


@pytest.mark.parametrize("table", TABLES)
def test_rows_come_back_as_written_with_corpus_and_day(store, table):
    fill(store, table)
    [row] = open_lake(store).sql(f"SELECT * FROM {table}").to_arrow_table().to_pylist()
    assert (row.pop("corpus"), row.pop("dt")) == ("prompts", datetime.date(2024, 5, 1))
    row["ingested_at"] = row["ingested_at"].astimezone(datetime.UTC)
    [written] = one_row(table).to_pylist()
    assert row == written


def test_rows_of_all_corpora_and_days_are_in_one_view(store):
    for corpus, day in [("a", "2024-05-01"), ("a", "2024-05-02"), ("b", "2024-05-02")]:
        fill(store, "segments", corpus, day, corpus_id=corpus)
    query = "SELECT corpus, dt::VARCHAR, count(*) FROM segments WHERE corpus = corpus_id GROUP BY ALL ORDER BY ALL"
    assert open_lake(store).sql(query).fetchall() == [
        ("a", "2024-05-01", 1),
        ("a", "2024-05-02", 1),
        ("b", "2024-05-02", 1),
    ]


@pytest.mark.parametrize("corpus", ["2024", "2024-05-01", "007", "true", "1.5"])
def test_a_corpus_whose_name_looks_like_a_number_or_a_date_stays_text(store, corpus):
    fill(store, "segments", corpus)
    assert open_lake(store).sql("SELECT corpus FROM segments").fetchall() == [(corpus,)]


def test_a_table_without_files_can_be_joined_with_one_that_has_them(store):
    fill(store, "segments")
    query = "SELECT s.segment_id, t.text FROM segments s LEFT JOIN transcripts t USING (segment_id)"
    assert open_lake(store).sql(query).fetchall() == [("x", None)]


def test_columns_of_a_later_release_are_null_in_older_files(store):
    fill(store, "tags")
    later = one_row("tags").append_column("rank", pa.array([1], pa.int32()))
    store.put(layout.data_file("tags", "prompts", "2024-05-02", "00002", 0), to_parquet(later))
    query = "SELECT dt::VARCHAR, rank FROM tags ORDER BY dt"
    assert open_lake(store).sql(query).fetchall() == [("2024-05-01", None), ("2024-05-02", 1)]


def test_staged_files_are_never_seen(store):
    store.put(layout.fragment_file("prompts", "00001", 1, "segments", "x"), to_parquet(one_row("segments")))
    assert open_lake(store).sql("SELECT count(*) FROM segments").fetchall() == [(0,)]


@pytest.mark.parametrize("table", TABLES)
def test_the_view_of_current_rows_holds_the_newest_version_only(store, table):
    for run, recording in [("00001", "old"), ("00002", "new")]:
        keys = {"run": run, "run_id": run, "recording_id": recording, "uri": "s3://clips/a.wav"}
        if table != "failures":
            fill(store, "recordings", **keys)
        fill(store, table, **keys, **({"segment_id": None} if table == "failures" else {}))
    connection = open_lake(store)
    assert connection.sql(f"SELECT recording_id FROM {table}").fetchall() == [("old",), ("new",)]
    assert connection.sql(f"SELECT recording_id, corpus FROM current_{table}").fetchall() == [("new", "prompts")]


def test_columns_of_a_later_release_are_in_the_view_of_current_rows_too(store):
    fill(store, "recordings", run_id="00001")
    later = one_row("tags", run_id="00001").append_column("rank", pa.array([1], pa.int32()))
    store.put(layout.data_file("tags", "prompts", "2024-05-01", "00001", 0), to_parquet(later))
    assert open_lake(store).sql("SELECT rank FROM current_tags").fetchall() == [(1,)]


class CountedFiles(LocalFileSystem):
    """A local disk under another name, which counts how often each file is opened."""

    protocol = "far"
    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.opened = Counter()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("far://"))

    def open(self, path: str, mode: str = "rb", **options):
        self.opened[path] += 1
        return super().open(path, mode, **options)


class FarStore:
    """What `open_lake` asks of a store that is not local, answered from a local one."""

    is_local = False

    def __init__(self, near: Store) -> None:
        self.filesystem = CountedFiles()
        self.list = near.list
        self.url = lambda path: f"far://{near.full(path)}"


def test_opening_a_lake_opens_every_file_once(store):
    for table in TABLES:
        fill(store, table)
    far = FarStore(store)
    connection = open_lake(far)
    assert len(far.filesystem.opened) == len(TABLES)
    assert set(far.filesystem.opened.values()) == {1}
    assert connection.sql("SELECT count(*) FROM current_tags").fetchall() == [(1,)]
