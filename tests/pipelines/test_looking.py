"""The commands that look at a lake: failures at scale, the runs of a corpus, what a query prints."""

import csv
import datetime
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_lake import READING, add_plan, seal_run
from test_lake import one_row
from typer.testing import CliRunner
from warehouse_lake import sealed

from pipelines.cli import app
from pipelines.errors import RecipeError
from pipelines.store import Store

SEGMENT = "0123456789abcdef0123456789abcdef-00007"


def invoke(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy recordings of `calls` that are no audio and two that the store did not give; one segment of `clips`."""
    root = tmp_path_factory.mktemp("lake")
    facts = {"run_id": "00001", "stage": "decode", "attempts": 1, "message": "no"}
    codes = ["not_audio"] * 70 + ["fetch_failed"] * 2
    rows = [
        one_row("failures", **facts, corpus_id="calls", uri=f"/c/{n:02d}", recording_id=f"c{n}", segment_id=None)
        .drop_columns(["code", "transient"])
        .append_column("code", pa.array([code]))
        .append_column("transient", pa.array([code == "fetch_failed"]))
        for n, code in enumerate(codes)
    ]
    sealed(Store(str(root)), 1, {"failures": pa.concat_tables(rows)}, "calls")
    heard = {"recording_id": SEGMENT[:32], "uri": "/s/a.wav", "run_id": "00001", "corpus_id": "clips"}
    failed = facts | heard | {"segment_id": SEGMENT, "stage": "tags/yamnet", "code": "model_failed", "transient": False}
    tables = {"recordings": one_row("recordings", **heard), "failures": one_row("failures", **failed)}
    sealed(Store(str(root)), 1, tables, "clips")
    return root


def test_failures_are_counted_by_code_first_and_the_rows_have_a_limit(lake: Path) -> None:
    lines = invoke("failures", lake).stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["not_audio", "70", "no"],
        ["fetch_failed", "2", "yes"],
        ["model_failed", "1", "no"],
    ]
    assert lines[-2:] == ["… and 23 more: --limit, --code, --corpus, or --json for all", "73 failures"]


def test_a_row_shows_corpus_whether_it_may_pass_where_it_is_and_the_whole_segment(lake: Path) -> None:
    [line] = [line for line in invoke("failures", lake, "--corpus", "clips").stdout.splitlines() if "/s/a.wav" in line]
    assert line.split() == ["clips", "tags/yamnet", "model_failed", "no", "/s/a.wav:", "no", SEGMENT]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ((), 73),
        (("--limit", 5), 5),
        (("--code", "fetch_failed"), 2),
        (("--code", "fetch_failed", "--code", "model_failed"), 3),
        (("--corpus", "calls"), 72),
        (("--corpus", "clips", "--code", "not_audio"), 0),
        (("--history", "--corpus", "calls"), 72),
    ],
)
def test_options_choose_and_json_is_everything_that_is_chosen(lake: Path, options: tuple, shown: int) -> None:
    assert len(json.loads(invoke("failures", lake, *options, "--json").stdout)) == shown


def test_no_failures_are_said_to_be_none(lake: Path) -> None:
    assert invoke("failures", lake, "--corpus", "clips", "--code", "empty").stdout == "0 failures\n"


def test_a_corpus_that_is_none_is_refused_with_those_there_are(lake: Path) -> None:
    error = invoke("failures", lake, "--corpus", "call").exception
    assert isinstance(error, RecipeError)
    assert "has no corpus call; it has calls, clips" in str(error)


# status


def test_status_lists_the_last_runs_and_json_all_of_them(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for day in range(1, 8):
        at = datetime.datetime(2026, 5, day, 2, tzinfo=datetime.UTC)
        seal_run(store, "calls", f"{day:05d}", at=at, files=[], recordings=[{"decoded_seconds": 60.0}] * day, failed=1)
    add_plan(store, "calls", "00008", datetime.datetime(2026, 5, 8, tzinfo=datetime.UTC), READING)
    lines = invoke("status", tmp_path).stdout.splitlines()
    assert lines[1].split() == ["run", "00008", "2026-05-08", "open", "1", "recordings,", "0", "attempts"]
    assert lines[2] == "  run 00007  2026-05-07  sealed         8 recordings, 1 failed, 20 s"
    assert lines[6:] == ["  … and 3 older: --json"]
    [told] = json.loads(invoke("status", tmp_path, "--json").stdout)
    assert [(one["run"], one["state"], one["failed"]) for one in told["last_runs"][:2]] == [
        ("00008", "open", None),
        ("00007", "sealed", 1),
    ]
    assert len(told["last_runs"]) == 8


# query


def test_a_query_without_rows_prints_its_columns_and_says_so(lake: Path) -> None:
    for columns in ("uri, status", "*"):
        said = invoke("query", lake, f"SELECT {columns} FROM recordings WHERE false").stdout.splitlines()
        assert said[0].split()[-2:] == (["uri", "status"] if columns != "*" else ["corpus", "dt"])
        assert said[1] == "0 rows"
    assert json.loads(invoke("query", lake, "SELECT 1 AS a WHERE false", "--json").stdout) == []
    assert invoke("query", lake, "SELECT 1 AS a, 2 AS b WHERE false", "--csv").stdout == "a,b\n"


def test_every_statement_of_several_is_shown(lake: Path) -> None:
    said = invoke("query", lake, "SET threads = 1; SELECT 7 AS one; SELECT 8 AS two").stdout
    assert said.split() == ["one", "7", "two", "8"]


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_forms_for_programs_take_one_statement_with_rows(lake: Path, form: str) -> None:
    error = invoke("query", lake, "SELECT 1 AS a; SELECT 2 AS b", form).exception
    assert isinstance(error, RecipeError)
    assert "2 statements with rows; --json and --csv take one at a time" in str(error)
    assert "7" in invoke("query", lake, "SET threads = 1; SELECT 7 AS one", form).stdout


@pytest.mark.parametrize("sql", ["", "SET threads = 1", "/* nothing */"])
def test_a_query_that_asks_nothing_is_refused(lake: Path, sql: str) -> None:
    assert "write one, such as SELECT" in str(invoke("query", lake, sql).exception)


def test_bytes_are_base64_for_programs_also_inside_of_structs(lake: Path) -> None:
    sql = "SELECT 'fLaC'::BLOB AS sound, {'bytes': 'fLaC'::BLOB} AS audio"
    told = {"sound": "ZkxhQw==", "audio": {"bytes": "ZkxhQw=="}}
    assert json.loads(invoke("query", lake, sql, "--json").stdout) == [told]
    [row] = csv.DictReader(io.StringIO(invoke("query", lake, sql, "--csv").stdout))
    assert (row["sound"], json.loads(row["audio"])) == (told["sound"], told["audio"])


def test_csv_keeps_what_a_cell_may_hold(lake: Path) -> None:
    sql = "SELECT 'a,\"b\"\n' AS text, NULL AS nothing, [1, 2] AS list, MAP {'k': 'v'} AS map, 0.5 AS number"
    [row] = csv.DictReader(io.StringIO(invoke("query", lake, sql, "--csv").stdout, newline=""))
    assert row == {"text": 'a,"b"\n', "nothing": "", "list": "[1, 2]", "map": '{"k": "v"}', "number": "0.5"}


def test_copy_writes_a_file(lake: Path, tmp_path: Path) -> None:
    invoke("query", lake, f"COPY (SELECT DISTINCT code FROM failures) TO '{tmp_path}/codes.parquet'")
    assert pq.read_table(tmp_path / "codes.parquet").num_rows == 3


def test_two_forms_at_once_are_refused(lake: Path) -> None:
    assert "give one" in str(invoke("query", lake, "SELECT 1", "--json", "--csv").exception)
