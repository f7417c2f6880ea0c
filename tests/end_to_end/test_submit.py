"""Jobs on a real head with two more nodes, with tokens on: what arrives there, what comes back, and one job a night."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import pipelines
from tests.end_to_end.conftest import free_ports
from tests.end_to_end.test_command_line import DEMO, write
from tests.end_to_end.test_nights import asked, phonolake, sound

RAY = Path(sys.executable).parent / "ray"
HOME = Path(pipelines.__file__).parents[1]
TOKEN = "0123456789abcdef" * 4
GATED = """
'''A model of one's own that waits until somebody opens the gate.'''
import time
from pathlib import Path


class Gated:
    sample_rate = 16_000

    @classmethod
    def load(cls, loading):
        found = cls()
        found.gate = Path(loading.settings("embeddings")["options"]["gate"])
        return found

    def run(self, clips):
        while not self.gate.exists():
            time.sleep(0.1)
        return [float(len(clip.waveform)) for clip in clips]

    def rows(self, result, stage):
        return [{"layer": None, "pooling": "mean", "dim": 1, "vector": [result]}]
"""


@dataclass(frozen=True)
class Head:
    """A cluster's address, for jobs, and the environment of those who know its token."""

    url: str
    environment: dict[str, str]

    def ask(self, path: str) -> Any:
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """`ray start --head` and two `ray start --address`."""
    port, dashboard, *agents = free_ports(5)  # another Ray on this machine has the usual ones
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a short path: sockets lie in it
    known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "PATH": f"{RAY.parent}:{os.environ['PATH']}"}
    environment = {name: value for name, value in {**os.environ, **known}.items() if name != "RAY_ADDRESS"}
    found = Head(f"http://127.0.0.1:{dashboard}", environment)
    starts = [
        [f"--port={port}", "--head", f"--dashboard-port={dashboard}", f"--temp-dir={folder}", "--num-cpus=1"],
        *([f"--address=127.0.0.1:{port}", "--num-cpus=1"] for _ in range(2)),
    ]
    started: list[subprocess.Popen[bytes]] = []
    with open(f"{folder}/starts.log", "wb") as log:
        try:
            for options, agent in zip(starts, agents, strict=True):
                command = [str(RAY), "start", "--block", "--disable-usage-stats", *options]
                command += [f"--dashboard-agent-listen-port={agent}", "--min-worker-port=0", "--max-worker-port=0"]
                started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
                await_answer(found)
            yield found
        finally:
            family = [one for process in started for one in psutil.Process(process.pid).children(recursive=True)]
            for one in [*started, *family]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            for process in started:
                process.wait(timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


def await_answer(head: Head) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            head.ask("/api/version")
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def submit(recipe: Path, head: Head, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command where the recipe lies. It is a process of its own: Ray keeps the first token that it is told."""
    command = [sys.executable, "-P", "-c", "from pipelines.cli import main; main()", "submit", recipe.name]
    known = {**head.environment, "PYTHONPATH": str(HOME), **environment}
    return subprocess.run(
        [*command, "--address", head.url, *options],
        cwd=recipe.parent,
        capture_output=True,
        text=True,
        timeout=200,
        env=known,
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe over two clips and an empty file."""
    (tmp_path / "clips").mkdir()
    for name in ("beep.wav", "vm-goodbye.wav"):
        shutil.copy(DEMO / "en" / name, tmp_path / "clips" / name)
    (tmp_path / "clips" / "empty.wav").touch()
    content = {"corpus": "clips", "source": {"uri": "clips/"}, "lake": {"uri": "lake"}, "segments": {"by": "whole"}}
    return write(tmp_path, {**content, "spectrograms": [{"kind": "mfcc"}]})


def test_one_job_a_night_ships_our_code_and_the_users_and_brings_the_exit_code_back(recipe: Path, head: Head) -> None:
    (recipe.parent / "gated.py").write_text(GATED)
    gate, lake = recipe.parent / "gate", recipe.parent / "lake"
    night = ("--set", f"embeddings=[{{model: 'gated:Gated', options: {{gate: {gate}}}}}]")
    done = submit(recipe, head, *night, "--json")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)["submission_id"]
    assert f"{lake} is a path: every node of the cluster must see it" in done.stderr

    refused = submit(recipe, head, *night)
    assert refused.returncode == 1
    assert f"job {first} is at work on corpus clips" in refused.stderr
    other = submit(recipe, head, *night, "--set", "segments.by=speech", "--wait")
    assert other.returncode == 4, other.stderr
    assert "with another recipe" in other.stderr

    assert head.ask(f"/api/jobs/{first}")["status"] in ("PENDING", "RUNNING")
    gate.touch()
    joined = submit(recipe, head, *night, "--wait", "--json")
    assert joined.returncode == 0, joined.stderr
    facts = {"submission_id": first, "address": head.url, "joined": True, "status": "SUCCEEDED", "exit_code": 0}
    assert json.loads(joined.stdout) == facts
    assert "2 ok, 0 partial, 1 failed" in joined.stderr  # the run's own summary
    sound(lake)
    assert asked(lake, "SELECT count(*) n, min(dim) d FROM embeddings") == [{"n": 2, "d": 1}]


def test_a_failed_job_gives_its_exit_code_and_the_night_can_be_tried_again(recipe: Path, head: Head) -> None:
    failed = submit(recipe, head, "--wait", "--json", "--set", "limits.max_failed_fraction=0")
    assert failed.returncode == 3, failed.stderr
    assert "recordings failed, more than limits.max_failed_fraction 0" in failed.stderr
    again = submit(recipe, head, "--wait", "--json")
    assert again.returncode == 0, again.stderr
    names = [json.loads(done.stdout)["submission_id"] for done in (failed, again)]
    assert [name[-2:] for name in names] == ["-1", "-2"]
    assert names[0][:-2] == names[1][:-2]
    sound(recipe.parent / "lake")


def test_plain_ray_job_submit_does_the_same(recipe: Path, head: Head) -> None:
    for package in ("pipelines", "workers", "schemas"):  # of a clone, without what else lies in it
        shutil.copytree(HOME / package, recipe.parent / package, ignore=shutil.ignore_patterns("__pycache__", "corpus"))
    content = yaml.safe_load(recipe.read_text())
    content |= {"source": {"uri": f"{recipe.parent}/clips/"}, "lake": {"uri": f"{recipe.parent}/lake"}}
    write(recipe.parent, content)
    command = [str(RAY), "job", "submit", "--address", head.url, "--working-dir", "."]
    done = subprocess.run(
        [*command, "--", "python", "-m", "pipelines", "run", "recipe.yaml"],
        cwd=recipe.parent,
        capture_output=True,
        text=True,
        timeout=120,
        env=head.environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 ok, 0 partial, 1 failed" in done.stdout + done.stderr
    sound(recipe.parent / "lake")


def test_a_wrong_token_ends_with_1_and_says_what_to_set(recipe: Path, head: Head) -> None:
    done = submit(recipe, head, RAY_AUTH_TOKEN=TOKEN[::-1])
    assert done.returncode == 1, done.stderr
    assert "RAY_AUTH_MODE=token" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_where_nobody_answers_ends_with_1(recipe: Path) -> None:
    done = phonolake("submit", recipe, "--address", f"http://127.0.0.1:{free_ports(1)[0]}")
    assert done.returncode == 1
    assert "no Ray cluster takes jobs at http://127.0.0.1:" in done.stderr
