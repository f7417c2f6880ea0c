"""The views of current rows: each case by name, random histories against a slow model, the text for other engines."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import exp
from sqlglot.dialects.dialect import Dialect

from pipelines.views import CURRENT, script, view_name
from schemas.tables import TABLES, leading_key

ROOT = Path(__file__).parents[2]
CORPUS = "prompts"
PLANNED = 1_714_521_600_000_000  # microseconds since 1970
FILLERS = {pa.string(): "x", pa.list_(pa.float32()): [0.5], pa.bool_(): False}
STAGES = ["spectrograms/log_mel", "embeddings/yamnet", "transcripts/a/b", "tags/yamnet", "tags/other", "clips/flac"]
DIALECTS = ["duckdb", "spark", "bigquery", "snowflake", "trino", "postgres"]
PLAIN = {
    *("Create", "Table", "TableAlias", "With", "CTE", "Select", "From", "Join", "Where", "Group", "Union"),
    *("Window", "Order", "Ordered", "RowNumber", "Max", "Min", "Case", "If", "DPipe"),
    *("Star", "Column", "Identifier", "Alias", "Literal", "Null", "And", "Or", "Not", "Is", "EQ", "GT", "LT", "LTE"),
}
"""What the views are made of, as sqlglot calls it."""

Row = dict[str, Any]
Rows = dict[str, list[Row]]


@dataclass
class History:
    """What the tables of a lake hold after some runs. A recording is called `<uri>#<version>`."""

    rows: Rows = field(default_factory=lambda: {table: [] for table in TABLES})

    def decoded(self, run: int, recording: str, segments: int = 1, corpus: str = CORPUS) -> None:
        """A run decoded a recording and cut it into segments."""
        self._add("recordings", run, recording, corpus, uri=uri_of(recording))
        for index in range(segments):
            self._add("segments", run, recording, corpus, segment_id=id_of(recording, index), segment_index=index)

    def computed(
        self, run: int, recording: str, stage: str, segment: int = 0, labels: int = 1, corpus: str = CORPUS
    ) -> None:
        """A run computed a stage on a segment; only tags have more rows than one."""
        table, name = stage.split("/", 1)
        keys = {"segment_id": id_of(recording, segment), leading_key(table): name}
        for number in range(labels if table == "tags" else 1):
            label = {"label": f"label {number}"} if table == "tags" else {}
            self._add(table, run, recording, corpus, **keys, **label)

    def failed(
        self, run: int, recording: str, stage: str = "decode", segment: int | None = None, corpus: str = CORPUS
    ) -> None:
        """A run failed on a whole recording, or in a stage on one segment."""
        where = None if segment is None else id_of(recording, segment)
        self._add("failures", run, recording, corpus, uri=uri_of(recording), segment_id=where, stage=stage)

    def _add(self, table: str, run: int, recording: str, corpus: str, **values: Any) -> None:
        keys = {"recording_id": recording, "run_id": f"{run:05d}", "corpus_id": corpus, "ingested_at": PLANNED}
        filled = {one.name: None if one.nullable else FILLERS.get(one.type, 1) for one in TABLES[table]}
        self.rows[table].append({**filled, **keys, **values})


def uri_of(recording: str) -> str:
    return recording.split("#")[0]


def id_of(recording: str, index: int) -> str:
    return f"{recording}-{index:05d}"


class Reader:
    """DuckDB with the views, over tables that can be exchanged."""

    def __init__(self) -> None:
        self._connection = duckdb.connect(config={"threads": 1})
        self._load(History())
        for table, query in CURRENT.items():
            self._connection.execute(f"CREATE VIEW {view_name(table)} AS {query}")

    def _load(self, history: History) -> None:
        for table, schema in TABLES.items():
            self._connection.register(table, pa.Table.from_pylist(history.rows[table], schema))

    def current(self, history: History) -> Rows:
        """All rows of all views, in any order."""
        self._load(history)
        return {table: self._rows(table) for table in TABLES}

    def _rows(self, table: str) -> list[Row]:
        found = self._connection.execute(
            f"SELECT * REPLACE (epoch_us(ingested_at) AS ingested_at) FROM {view_name(table)}"
        )
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def seen(reader, history):
    """Some columns of a view of the history, sorted: runs as numbers, segments by their index."""

    def short(name: str, value: Any) -> Any:
        if name == "run_id":
            return int(value)
        return int(value[-5:]) if name == "segment_id" and value else value

    def look(table: str, *columns: str) -> list[tuple]:
        return sorted(tuple(short(name, row[name]) for name in columns) for row in reader.current(history)[table])

    return look


# Which version of an object counts


def test_of_a_changed_object_only_the_newest_version_counts(history, seen):
    for run, recording in [(1, "/a#1"), (2, "/a#2"), (1, "/b#1")]:
        history.decoded(run, recording)
        for stage in STAGES:
            history.computed(run, recording, stage)
    for table in ("recordings", "segments", "spectrograms", "embeddings", "transcripts"):
        assert seen(table, "recording_id", "run_id") == [("/a#2", 2), ("/b#1", 1)]
    assert seen("tags", "recording_id", "model") == [
        *[("/a#2", "other"), ("/a#2", "yamnet")],
        *[("/b#1", "other"), ("/b#1", "yamnet")],
    ]


def test_the_newest_version_is_that_of_the_last_run_not_of_the_greatest_id(history, seen):
    history.decoded(1, "/a#9")
    history.decoded(2, "/a#1")
    assert seen("recordings", "recording_id") == [("/a#1",)]


def test_a_newer_version_that_failed_hides_the_older_one(history, seen):
    history.decoded(1, "/a#1")
    history.computed(1, "/a#1", "tags/yamnet")
    history.failed(2, "/a#2")
    for table in ("recordings", "segments", "tags"):
        assert seen(table, "recording_id") == []
    assert seen("failures", "recording_id", "run_id") == [("/a#2", 2)]


def test_an_older_version_stays_hidden_when_a_stage_is_computed_on_it_later(history, seen):
    history.decoded(1, "/a#1")
    history.decoded(2, "/a#2")
    history.computed(3, "/a#1", "tags/yamnet")
    history.failed(3, "/a#1", "tags/other", segment=0)
    assert seen("recordings", "recording_id") == [("/a#2",)]
    assert seen("tags", "recording_id") == seen("failures", "recording_id") == []


def test_an_older_version_that_a_later_run_decodes_again_counts_again(history, seen):
    history.decoded(1, "/a#1")
    history.decoded(2, "/a#2")
    history.decoded(3, "/a#1")
    assert seen("recordings", "recording_id", "run_id") == [("/a#1", 3)]


def test_failures_of_an_older_version_are_gone(history, seen):
    history.failed(1, "/a#1")
    history.decoded(1, "/b#1")
    history.failed(1, "/b#1", "tags/yamnet", segment=0)
    history.decoded(2, "/a#2")
    history.decoded(2, "/b#2")
    assert seen("failures", "recording_id") == []


def test_two_versions_in_one_run_are_still_one_row(history, seen):
    history.decoded(1, "/a#1")
    history.decoded(1, "/a#2")
    assert seen("recordings", "recording_id") == seen("segments", "recording_id") == [("/a#2",)]


def test_corpora_do_not_mix(history, seen):
    history.decoded(1, "/a#1", corpus="one")
    history.computed(1, "/a#1", "tags/yamnet", corpus="one")
    history.failed(1, "/a#1", "tags/other", segment=0, corpus="one")
    history.failed(1, "/b#1", corpus="one")
    history.decoded(2, "/a#1", corpus="two")
    history.computed(2, "/a#1", "tags/yamnet", corpus="two")
    history.computed(2, "/a#1", "tags/other", corpus="two")
    history.decoded(3, "/a#2", corpus="two")
    history.decoded(4, "/b#1", corpus="two")
    assert seen("recordings", "corpus_id", "recording_id") == [("one", "/a#1"), ("two", "/a#2"), ("two", "/b#1")]
    assert seen("tags", "corpus_id", "recording_id", "run_id") == [("one", "/a#1", 1)]
    assert seen("failures", "corpus_id", "recording_id") == [("one", "/a#1"), ("one", "/b#1")]


# What counts of a recording that several runs worked on


def test_a_model_added_later_stands_beside_the_older_ones(history, seen):
    history.decoded(1, "/a#1")
    history.computed(1, "/a#1", "tags/yamnet")
    history.computed(2, "/a#1", "tags/other")
    assert seen("tags", "model", "run_id") == [("other", 2), ("yamnet", 1)]
    assert seen("recordings", "run_id") == seen("segments", "run_id") == [(1,)]


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_computed_again_replaces_what_was(history, seen, stage):
    history.decoded(1, "/a#1")
    history.computed(1, "/a#1", stage)
    history.computed(2, "/a#1", stage)
    assert seen(stage.split("/")[0], "run_id") == [(2,)]


def test_of_tags_computed_again_all_labels_of_the_last_run_count_and_none_of_an_older(history, seen):
    history.decoded(1, "/a#1")
    history.computed(1, "/a#1", "tags/yamnet", labels=3)
    history.computed(2, "/a#1", "tags/yamnet", labels=2)
    assert seen("tags", "run_id", "label") == [(2, "label 0"), (2, "label 1")]


def test_a_retry_of_one_segment_leaves_the_others(history, seen):
    history.decoded(1, "/a#1", segments=3)
    for segment in (0, 2):
        history.computed(1, "/a#1", "embeddings/yamnet", segment)
    history.failed(1, "/a#1", "embeddings/yamnet", segment=1)
    history.computed(2, "/a#1", "embeddings/yamnet", segment=1)
    assert seen("embeddings", "segment_id", "run_id") == [(0, 1), (1, 2), (2, 1)]
    assert seen("failures", "segment_id") == []


def test_a_recording_cut_anew_shows_nothing_of_the_old_cut(history, seen):
    history.decoded(1, "/a#1", segments=3)
    for segment in range(3):
        history.computed(1, "/a#1", "tags/yamnet", segment)
        history.computed(1, "/a#1", "tags/other", segment)
    history.failed(1, "/a#1", "embeddings/yamnet", segment=2)
    history.decoded(2, "/a#1", segments=2)
    for segment in range(2):
        history.computed(2, "/a#1", "tags/yamnet", segment)
    assert seen("recordings", "run_id") == [(2,)]
    assert seen("segments", "segment_id", "run_id") == [(0, 2), (1, 2)]
    assert seen("tags", "segment_id", "model", "run_id") == [(0, "yamnet", 2), (1, "yamnet", 2)]
    assert seen("failures", "segment_id") == []


def test_a_recording_without_segments_counts_too(history, seen):
    history.decoded(1, "/a#1", segments=2)
    history.decoded(2, "/a#1", segments=0)
    assert seen("recordings", "run_id") == [(2,)]
    assert seen("segments", "run_id") == []


# What still fails


def test_a_recording_that_decoded_stays_when_a_later_run_fails_on_it(history, seen):
    history.decoded(1, "/a#1")
    history.computed(1, "/a#1", "tags/yamnet")
    history.failed(2, "/a#1", "fetch")
    assert seen("recordings", "run_id") == seen("segments", "run_id") == seen("tags", "run_id") == [(1,)]
    assert seen("failures", "stage", "run_id") == [("fetch", 2)]


def test_of_several_whole_failures_the_last_counts(history, seen):
    history.failed(1, "/a#1", "decode")
    history.failed(2, "/a#1", "fetch")
    assert seen("failures", "stage", "run_id") == [("fetch", 2)]


def test_a_whole_failure_is_settled_by_a_run_that_decodes(history, seen):
    history.failed(1, "/a#1", "fetch")
    history.decoded(2, "/a#1", segments=0)
    assert seen("failures", "run_id") == []
    assert seen("recordings", "run_id") == [(2,)]


@pytest.mark.parametrize("stage", STAGES)
def test_a_whole_failure_is_settled_by_a_run_that_computes_a_stage(history, seen, stage):
    history.decoded(1, "/a#1")
    history.failed(2, "/a#1", "fetch")
    assert seen("failures", "run_id") == [(2,)]
    history.computed(3, "/a#1", stage)
    assert seen("failures", "run_id") == []


def test_a_whole_failure_is_settled_by_a_run_that_fails_on_a_segment(history, seen):
    history.decoded(1, "/a#1")
    history.failed(2, "/a#1", "fetch")
    history.failed(3, "/a#1", "tags/yamnet", segment=0)
    assert seen("failures", "stage", "run_id") == [("tags/yamnet", 3)]


def test_a_whole_failure_leaves_an_older_one_of_a_segment(history, seen):
    history.decoded(1, "/a#1")
    history.failed(1, "/a#1", "tags/yamnet", segment=0)
    history.failed(2, "/a#1", "fetch")
    assert seen("failures", "stage", "run_id") == [("fetch", 2), ("tags/yamnet", 1)]


def test_a_whole_failure_after_what_settled_another_counts(history, seen):
    history.decoded(1, "/a#1")
    history.failed(2, "/a#1", "fetch")
    history.computed(3, "/a#1", "tags/yamnet")
    history.failed(4, "/a#1", "decode")
    assert seen("failures", "stage", "run_id") == [("decode", 4)]


def test_of_several_failures_of_a_segment_the_last_counts(history, seen):
    history.decoded(1, "/a#1")
    for run in (1, 2):
        history.failed(run, "/a#1", "tags/yamnet", segment=0)
    history.failed(1, "/a#1", "tags/other", segment=0)
    assert seen("failures", "stage", "run_id") == [("tags/other", 1), ("tags/yamnet", 2)]


@pytest.mark.parametrize("stage", STAGES)
def test_a_failed_segment_is_settled_by_later_rows_of_its_stage(history, seen, stage):
    history.decoded(1, "/a#1")
    history.failed(1, "/a#1", stage, segment=0)
    assert seen("failures", "segment_id", "stage") == [(0, stage)]
    history.computed(2, "/a#1", stage)
    assert seen("failures", "stage") == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_segment_that_failed_again_after_it_was_done_counts_until_it_is_done_again(history, seen, stage):
    history.decoded(1, "/a#1")
    history.failed(1, "/a#1", stage, segment=0)
    history.computed(2, "/a#1", stage)
    history.failed(3, "/a#1", stage, segment=0)
    assert seen("failures", "stage", "run_id") == [(stage, 3)]
    assert seen(stage.split("/")[0], "run_id") == [(2,)]
    history.computed(4, "/a#1", stage)
    assert seen("failures", "stage") == []
    assert seen(stage.split("/")[0], "run_id") == [(4,)]


def test_a_failed_segment_is_not_settled_by_another_segment_model_table_or_an_older_run(history, seen):
    history.decoded(1, "/a#1", segments=2)
    history.computed(1, "/a#1", "tags/yamnet", segment=0)
    history.failed(2, "/a#1", "tags/yamnet", segment=0)
    history.computed(3, "/a#1", "tags/yamnet", segment=1)
    history.computed(3, "/a#1", "tags/other", segment=0)
    history.computed(3, "/a#1", "embeddings/yamnet", segment=0)
    assert seen("failures", "segment_id", "stage", "run_id") == [(0, "tags/yamnet", 2)]
    assert seen("tags", "segment_id", "model", "run_id") == [(0, "other", 3), (0, "yamnet", 1), (1, "yamnet", 3)]


def test_an_empty_lake_has_empty_views(reader, history):
    assert reader.current(history) == {table: [] for table in TABLES}


# Random histories


def slow_views(rows: Rows) -> Rows:
    """What the views mean, asked of one row after the other."""
    return {table: [row for row in rows[table] if is_current(table, row, rows)] for table in TABLES}


def is_current(table: str, row: Row, rows: Rows) -> bool:
    if not is_latest_version(row, rows):
        return False
    base = max((one["run_id"] for one in rows["recordings"] if same(one, row)), default="")
    if table in ("recordings", "segments"):
        return row["run_id"] == base
    if table == "failures" and row["segment_id"] is None:
        later = [one for other in TABLES for one in rows[other] if same(one, row) and one["run_id"] > row["run_id"]]
        return not later  # rows, failures on segments, or another failure of the whole: it is no longer the last word
    thing = ("segment_id", "stage" if table == "failures" else leading_key(table))
    rivals = [one for one in rows[table] if same(one, row, *thing)]
    if table == "failures":
        stage_table, name = row["stage"].split("/", 1)
        done = [one for one in rows[stage_table] if same(one, row, "segment_id")]
        rivals += [one for one in done if one[leading_key(stage_table)] == name]
    return row["run_id"] >= base and not any(one["run_id"] > row["run_id"] for one in rivals)


def is_latest_version(row: Row, rows: Rows) -> bool:
    tries = [*rows["recordings"], *(one for one in rows["failures"] if one["segment_id"] is None)]
    own = [one for one in tries if one["corpus_id"] == row["corpus_id"] and one["uri"] == uri_of(row["recording_id"])]
    return max(own, key=lambda one: one["run_id"])["recording_id"] == row["recording_id"]


def same(one: Row, other: Row, *columns: str) -> bool:
    return all(one[name] == other[name] for name in ("corpus_id", "recording_id", *columns))


@st.composite
def histories(draw) -> History:
    """Up to four runs of two corpora that call their recordings alike; each run takes a uri once at most."""
    history, decoded = History(), set()
    for run, corpus, uri in ((run, corpus, uri) for run in range(1, 5) for corpus in ("one", "two") for uri in "ab"):
        what = draw(st.sampled_from(["nothing", "whole failure", "all", "stages", "stages"]))
        recording = f"{uri}#{draw(st.integers(1, 2))}"
        if what == "whole failure":
            history.failed(run, recording, draw(st.sampled_from(["fetch", "decode"])), corpus=corpus)
        elif what == "all":
            decoded.add((corpus, recording))
            segments = draw(st.integers(0, 2))
            history.decoded(run, recording, segments, corpus)
            carry_out(draw, history, run, recording, segments, corpus)
        elif what == "stages" and (corpus, recording) in decoded:
            carry_out(draw, history, run, recording, 2, corpus)
    return history


def carry_out(draw, history: History, run: int, recording: str, segments: int, corpus: str) -> None:
    """Let a run do or fail some stages on some segments."""
    for segment in range(segments):
        for stage in draw(st.sets(st.sampled_from(STAGES))):
            labels = draw(st.integers(0, 2))
            if labels:
                history.computed(run, recording, stage, segment, labels, corpus)
            else:
                history.failed(run, recording, stage, segment, corpus)


@settings(max_examples=120)
@given(history=histories())
def test_the_views_of_any_history_are_those_of_a_slow_model(reader, history):
    found, wanted = reader.current(history), slow_views(history.rows)
    for table in TABLES:
        assert sorted(found[table], key=str) == sorted(wanted[table], key=str), table


# Other engines


def test_the_sql_file_is_what_the_module_prints():
    made = (ROOT / "deploy/sql/current_views.sql").read_text()
    assert made == script(), "make it again: python -m pipelines.views > deploy/sql/current_views.sql"
    command = [sys.executable, "-m", "pipelines.views"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == made
    assert "`python -m pipelines.views > deploy/sql/current_views.sql`" in made


def test_the_script_makes_the_views_from_nothing_but_the_tables():
    connection = duckdb.connect()
    for table, schema in TABLES.items():
        connection.register(table, schema.empty_table())
    for _ in range(2):  # run again, it replaces them
        connection.execute(script())
    for table in TABLES:
        assert connection.sql(f"SELECT * FROM current_{table}").columns == TABLES[table].names


def parsed(dialect: str) -> list[exp.Expression]:
    """The script as a dialect reads it, in sqlglot's own terms; how nulls are ordered does not matter, none are."""
    trees = [tree for tree in sqlglot.parse(script(), dialect=dialect) if tree is not None]
    for node in (node for tree in trees for node in tree.walk()):
        for nuance in ("nulls_first", "safe"):
            node.args.pop(nuance, None)
    return [sqlglot.parse_one(tree.sql()) for tree in trees]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_reads_the_script_alike(dialect):
    trees = parsed(dialect)
    assert [(type(tree), tree.this.name, tree.args["kind"]) for tree in trees] == [
        (exp.Create, view_name(table), "VIEW") for table in CURRENT
    ]
    assert trees == parsed("duckdb")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_name_in_the_script_is_a_reserved_word(dialect):
    reserved = {word.lower() for word in Dialect.get_or_raise(dialect).generator_class.RESERVED_KEYWORDS}
    assert not reserved & {node.name.lower() for tree in parsed(dialect) for node in tree.find_all(exp.Identifier)}


def test_the_script_keeps_to_plain_sql():
    nodes = [node for tree in parsed("duckdb") for node in tree.walk()]
    assert {type(node).__name__ for node in nodes} <= PLAIN
    assert not any(any(node.args.values()) for node in nodes if isinstance(node, exp.Star))  # no EXCLUDE or REPLACE
    assert not any(node.args["distinct"] for node in nodes if isinstance(node, exp.Union))  # not said alike everywhere


def test_wide_columns_are_never_sorted_or_grouped():
    ids = {"corpus_id", "recording_id", "run_id", "segment_id", "uri", "stage", "model", "kind", "format"}
    for tree in parsed("duckdb"):
        for node in (*tree.find_all(exp.Window), *tree.find_all(exp.Group), *tree.find_all(exp.AggFunc)):
            assert {column.name for column in node.find_all(exp.Column)} <= ids | {"decoded", "last_run", "base_run"}
