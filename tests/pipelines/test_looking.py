"""The commands that look at a lake: failures at scale."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
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
