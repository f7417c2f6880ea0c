"""A week of nights on a cluster of three nodes, corpus and lake on S3: at its end the lake holds what was put in.

The test keeps a model of its own of what every night should have done, in a few lines without any of our code.
"""

import hashlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from pyiceberg.catalog import load_catalog
from ray.cluster_utils import Cluster

from pipelines.runs import find_runs
from pipelines.store import Store
from tests.end_to_end.conftest import S3Server
from tests.end_to_end.test_command_line import phonolake as separate_phonolake
from tests.end_to_end.test_command_line import write
from tests.end_to_end.test_faults_on_s3 import Wire, close
from tests.end_to_end.test_nights import phonolake

BUCKET = "week"
CORPUS, LAKE = f"s3://{BUCKET}/corpus/", f"s3://{BUCKET}/lake"
MODEL = "peaks:Peaks"
PEAKS = """
class Peaks:
    '''A tiny model: the largest sample of a clip.'''

    sample_rate = 16_000

    @classmethod
    def load(cls, loading):
        return cls()

    def run(self, clips):
        return [float(abs(clip.waveform).max()) for clip in clips]

    def rows(self, result, stage):
        return [{"layer": None, "pooling": "max", "dim": 1, "vector": [result]}]
"""
NO_AUDIO = b"Field notes, Friday: nobody spoke.\n"


def tone(number: int) -> bytes:
    """A short WAV, another one for every number."""
    samples = np.random.default_rng(number).normal(0, 0.1, 2400)
    file = io.BytesIO()
    soundfile.write(file, samples, 8000, "PCM_16", format="WAV")
    return file.getvalue()


DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
REFUSAL = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    % (len(DENIED), DENIED)
)


@dataclass
class Guarded(Wire):
    """A wire with a guard, who refuses requests whose first line matches; they do not reach the server.

    Attributes:
        refuses: the pattern.
        refused: the first lines of what was refused.
    """

    refuses: str = "(?!)"
    refused: list[str] = field(default_factory=list)

    def _ask(self, client: socket.socket, server: socket.socket, asked: list[str]) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if line := re.match(rb"(?:PUT|POST|GET|HEAD|DELETE) \S+ HTTP/1.1", data):
                    asked[0] = line[0].decode()
                    if re.search(self.refuses, asked[0]):
                        self.refused.append(asked[0])
                        client.sendall(REFUSAL)
                        client.shutdown(socket.SHUT_WR)
                        while client.recv(1 << 16):  # a client that is cut off while it sends would try again
                            pass
                        break
                server.sendall(data)
        close(server)


@dataclass
class Expected:
    """What should be in the lake, counted by hand.

    Attributes:
        objects: what lies in the bucket now.
        seen: of every uri the content that a night last saw; what is deleted stays known.
        stages: which stages the current version of each uri has.
        decoded: how many versions were decoded in all, failures not among them.
        runs: how many nights had anything to do.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    seen: dict[str, bytes] = field(default_factory=dict)
    stages: dict[str, set[str]] = field(default_factory=dict)
    decoded: int = 0
    runs: int = 0

    def night(self, stages: set[str]) -> None:
        """Note what a night with these stages does."""
        work = False
        for uri, content in self.objects.items():
            if self.seen.get(uri) != content:
                self.seen[uri], self.stages[uri] = content, set()
                self.decoded += content != NO_AUDIO
                work = True
            if content != NO_AUDIO:
                work |= not stages <= self.stages[uri]
                self.stages[uri] |= stages
        self.runs += work

    def contents(self) -> dict[str, str]:
        return {uri: hashlib.sha256(data).hexdigest() for uri, data in self.seen.items() if data != NO_AUDIO}

    def failed(self) -> set[str]:
        return {uri for uri, data in self.seen.items() if data == NO_AUDIO}

    def having(self, stage: str) -> set[str]:
        return {uri for uri, stages in self.stages.items() if stage in stages}


@dataclass(frozen=True)
class Week:
    """The bucket, the cluster and the wire between them."""

    server: S3Server
    recipe: Path
    wire: Guarded
    environment: dict[str, str]
    expected: Expected = field(default_factory=Expected)

    def put(self, **contents: bytes) -> None:
        for name, content in contents.items():
            self.server.filesystem().pipe_file(f"{BUCKET}/corpus/{name}.wav", content)
            self.expected.objects[f"{CORPUS}{name}.wav"] = content

    def delete(self, *names: str) -> None:
        for name in names:
            self.server.filesystem().rm(f"{BUCKET}/corpus/{name}.wav")
            del self.expected.objects[f"{CORPUS}{name}.wav"]

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        return separate_phonolake("run", self.recipe, *options, **self.environment)

    def night(self, *options: str, stages: set[str]) -> str:
        """Run the command to its end, as at the end of every night; return what it printed."""
        done = self.run(*options)
        assert done.returncode == 0, done.stderr
        self.expected.night(stages)
        return done.stdout

    def killed(self) -> None:
        """Start the command, and kill it as soon as it is at work."""
        command = [sys.executable, "-m", "pipelines", "run", str(self.recipe)]
        environment = {**os.environ, **self.environment}
        lake, before = Store(LAKE), len(find_runs(Store(LAKE), BUCKET).names)
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as driver:
            deadline = time.monotonic() + 120
            while not lake.list(f"runs/{BUCKET}/{before + 1:05d}/attempts"):
                assert driver.poll() is None, driver.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            driver.send_signal(signal.SIGKILL)
        assert driver.returncode == -signal.SIGKILL
        assert find_runs(lake, BUCKET).open


@pytest.fixture
def week(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Week]:
    """A head and two more nodes, which reach S3 by a guarded wire; the test itself reaches it directly."""
    s3.filesystem().mkdir(BUCKET)
    (tmp_path / "peaks.py").write_text(PEAKS)
    content = {"corpus": BUCKET, "source": {"uri": CORPUS}, "lake": {"uri": LAKE}, "segments": {"by": "whole"}}
    recipe = write(tmp_path, {**content, "spectrograms": [{"kind": "mfcc"}]})
    host, port = s3.environment["AWS_ENDPOINT_URL"].removeprefix("http://").split(":")
    wire = Guarded((host, int(port)))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=wire.serve, args=(listener,), daemon=True)
        thread.start()
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "PYTHONPATH": str(tmp_path),  # where the nodes find the model of one's own
        }
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
            for _ in range(2):
                nodes.add_node(num_cpus=1)
        yield Week(s3, recipe, wire, {**environment, "RAY_ADDRESS": nodes.address})
        nodes.shutdown()
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def asked(sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(phonolake("query", LAKE, sql, "--json").stdout)
    return found


def iceberg_agrees(catalog: str, s3: S3Server, expected: Expected) -> None:
    """Publish twice, as a scheduler may: the Iceberg tables have a snapshot a run, and the lake's rows once."""
    for _ in range(2):
        done = phonolake("publish", LAKE, "--to", "iceberg", "--catalog", catalog, "--namespace", "week")
        assert done.returncode == 0, done.stderr
    reader = {"s3.endpoint": s3.environment["AWS_ENDPOINT_URL"], "s3.region": s3.environment["AWS_REGION"]}
    tables = load_catalog("phonolake", uri=catalog, **reader)
    for table in ("recordings", "segments", "spectrograms", "embeddings", "failures"):
        opened = tables.load_table(f"week.{table}")
        assert len(opened.history()) == expected.runs
        [wanted] = asked(f"SELECT count(*) AS n FROM {table}")
        assert len(opened.scan().to_arrow()) == wanted["n"]
    found = tables.load_table("week.recordings").scan().to_arrow()
    assert set(found["content_sha256"].to_pylist()) >= set(expected.contents().values())


def report_agrees(expected: Expected) -> None:
    """The report counts what is there, and every run in some night."""
    done = phonolake("report", LAKE, "--no-audio", "--json")
    assert done.returncode == 0, done.stderr
    figures = {name: figure["rows"] for name, figure in json.loads(done.stdout)["figures"].items()}
    [totals] = figures["totals"]
    assert (totals["recordings"], totals["failed_recordings"]) == (len(expected.contents()), 0)
    assert sum(night["runs"] for night in figures["nights"]) == expected.runs
    assert sum(night["ok"] for night in figures["nights"]) >= expected.decoded  # and what a new stage was added to


def test_after_a_week_of_nights_the_lake_holds_what_was_put_in(week: Week) -> None:
    plain, more = {"mfcc"}, {"mfcc", MODEL}
    with_model = ("--set", f"embeddings=[{{model: '{MODEL}'}}]")

    week.put(a=tone(1), b=tone(2), c=tone(3), d=tone(4), e=tone(5), notes=NO_AUDIO)
    week.night(stages=plain)

    week.put(f=tone(6), a=tone(7))
    week.delete("b")
    week.night(stages=plain)

    week.put(g=tone(8), h=tone(9))
    week.killed()
    week.night(stages=plain)

    week.put(i=tone(10))
    week.night(*with_model, stages=more)

    week.put(j=tone(11), c=tone(12))
    week.wire.refuses = r"PUT \S*/receipts/"
    failed = week.run(*with_model)
    assert failed.returncode == 1, failed.stderr
    assert "run the same command to resume" in failed.stderr
    assert week.wire.refused
    week.wire.refuses = "(?!)"
    week.night(*with_model, stages=more)

    week.delete("d")
    assert "nothing new" in week.night(*with_model, stages=more)

    week.put(k=tone(13), a=tone(1), notes=tone(14))  # a as it was on the first night
    week.night(*with_model, stages=more)

    expected = week.expected
    assert len(expected.seen) == 12
    assert phonolake("verify", LAKE).returncode == 0
    (status,) = json.loads(phonolake("status", LAKE, "--json").stdout)
    assert (status["runs"], status["open_run"]) == (expected.runs, None) == (6, None)
    rows = asked("SELECT uri, content_sha256 AS content FROM current_recordings")
    assert {row["uri"]: row["content"] for row in rows} == expected.contents()
    assert len(rows) == 12
    assert asked("SELECT count(*) AS n FROM recordings") == [{"n": expected.decoded}]
    assert {row["uri"] for row in asked("SELECT uri FROM current_failures")} == expected.failed() == set()
    assert len(asked("SELECT uri FROM failures")) == 1
    for table, stage in (("spectrograms", "mfcc"), ("embeddings", MODEL)):
        found = asked(f"SELECT uri FROM current_{table} JOIN current_recordings USING (recording_id)")
        assert sorted(row["uri"] for row in found) == sorted(expected.having(stage))
    iceberg_agrees(f"sqlite:///{week.recipe.parent}/catalog.db", week.server, expected)
    report_agrees(expected)
