"""A Ray cluster of several nodes, on one machine: a node that vanishes and an actor that dies cost no row."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from ray.cluster_utils import Cluster

from pipelines.receipts import collect
from pipelines.runs import load_plan, read_table
from pipelines.store import Store
from pipelines.verdict import load_verdict
from tests.end_to_end.test_command_line import DEMO, phonolake

COPIES = 6
CLIPS = sorted(path for path in (DEMO / "en").iterdir() if path.is_file())


MARK = "PHONOLAKE_TEST_NODES"


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head and two more nodes with a core each; their processes bear a mark in their environment."""
    monkeypatch.setenv(MARK, str(tmp_path))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The demo's clips six times over, with a model, so that the run takes a while."""
    for copy in range(COPIES):
        for clip in CLIPS:
            target = tmp_path / "clips" / str(copy) / clip.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(clip.read_bytes())
    content = {
        "corpus": "clips",
        "source": {"uri": "clips/"},
        "lake": {"uri": "lake"},
        "spectrograms": [{"kind": "log_mel"}],
        "tags": [{"model": "yamnet", "top_k": 3}],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def disturbed(recipe: Path, nodes: Cluster, disturb: Callable[[], bool]) -> int:
    """Run the command, try to do something to the cluster until it is done, and return the command's exit code."""
    environment = {**os.environ, "RAY_ADDRESS": nodes.address}
    command = [sys.executable, "-m", "pipelines", "run", str(recipe)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        deadline = time.monotonic() + 240
        while not disturb():
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        said = run.communicate(timeout=400)
    assert run.returncode in (0, 1), said
    return run.returncode


def finished(recipe: Path, nodes: Cluster) -> None:
    """Run the command to its end, and check that everything is there once."""
    environment = {"RAY_ADDRESS": nodes.address}
    for _ in range(3):
        if (done := phonolake("run", recipe, **environment)).returncode == 0:
            break
    assert done.returncode == 0, done.stderr
    lake = recipe.parent / "lake"
    found = json.loads(phonolake("verify", lake, "--json").stdout)
    assert found["findings"] == []
    clips = COPIES * len(CLIPS)
    sql = "SELECT count(*) n, count(DISTINCT uri) u FROM recordings"
    assert json.loads(phonolake("query", lake, sql, "--json").stdout) == [{"n": clips, "u": clips}]


def test_a_node_that_vanishes_in_mid_run_costs_no_row_and_nothing_with_a_receipt_is_done_again(
    recipe: Path, nodes: Cluster
) -> None:
    store = Store(str(recipe.parent / "lake"))
    covered: set[str] = set()

    def vanish() -> bool:
        if not list((recipe.parent / "lake" / "staging").rglob("receipts/*.parquet")):
            return False
        evidence = collect(store, load_plan(store, "clips", "00001"))
        covered.update(evidence.winners()["recording_id"].to_pylist())
        nodes.remove_node(nodes.list_all_nodes()[-1], allow_graceful=False)
        return True

    disturbed(recipe, nodes, vanish)
    finished(recipe, nodes)
    verdict = load_verdict(store, load_plan(store, "clips", "00001"))
    rows = read_table(store, verdict.rows_file).to_pylist()
    homes = {row["recording_id"]: verdict.receipts[row["receipt"]] for row in rows}
    assert covered
    assert {homes[one].split("/")[3] for one in covered} == {"0001"}


def marked(mark: str) -> Iterator[psutil.Process]:
    """The living processes that were started with a mark in their environment."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                yield process


def at_work(mark: str) -> bool:
    """Whether a worker process with a mark is executing a task: Ray names it in the process's title."""
    for process in marked(mark):
        with suppress(psutil.Error):
            if re.search(r"^ray::(?!IDLE)\S*(Read|Map|compute)", " ".join(process.cmdline())):
                return True
    return False


def test_a_node_that_joins_in_mid_run_is_given_work(
    recipe: Path, nodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = False

    def join() -> bool:
        """Add a node once an attempt has divided the others, and wait until it is at work."""
        nonlocal joined
        if not joined and list((recipe.parent / "lake" / "runs").rglob("attempts/*.json")):
            monkeypatch.setenv(MARK, "the node that joined")
            nodes.add_node(num_cpus=1)
            joined = True
        return joined and at_work("the node that joined")

    assert disturbed(recipe, nodes, join) == 0
    finished(recipe, nodes)


def test_a_model_actor_that_is_killed_in_mid_run_costs_no_row(recipe: Path, nodes: Cluster) -> None:
    def kill() -> bool:
        """Kill an actor of the pool while it works: Ray names the running method in the process's title."""
        for process in marked(str(recipe.parent)):
            with suppress(psutil.NoSuchProcess):
                if re.search(r"^ray::MapWorker\(.*\)\.submit", " ".join(process.cmdline())):
                    process.send_signal(signal.SIGKILL)
                    return True
        return False

    assert disturbed(recipe, nodes, kill) == 0
    finished(recipe, nodes)
