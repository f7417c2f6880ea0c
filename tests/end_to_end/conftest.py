"""A real S3 server and one embedded Ray for all end-to-end tests."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
import ray
import s3fs

from workers.stores import s3_store

ACCESS_KEY, SECRET_KEY = "phonolake-test", "phonolake-test-secret"
MOST_WORKERS = 8
"""Of pytest-xdist, whose ports are told apart."""


@dataclass(frozen=True)
class S3Server:
    """A running server; `environment` is what a client needs."""

    environment: dict[str, str]
    pid: int

    def filesystem(self) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(skip_instance_cache=True)


def free_ports(count: int) -> list[int]:
    """Return free ports whose gRPC twins (port + 10000) are free too.

    They lie above those of Ray's workers (to 19999), and the twins below those that systems give away (from 32768).
    Workers of pytest-xdist, which look at the same time, look at different ones.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 20_000 + os.getpid() % 2_000 // MOST_WORKERS * MOST_WORKERS + worker
    candidates = (port for port in range(first, 22_768, MOST_WORKERS) if _is_free(port) and _is_free(port + 10_000))
    return list(islice(candidates, count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="package")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server for all tests, whose credentials stand in the environment."""
    with serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@contextmanager
def serving(folder: Path) -> Iterator[S3Server]:
    """SeaweedFS with one identity, so that wrong credentials are refused; meanwhile the environment names it."""
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    folder.mkdir(exist_ok=True)
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    port, *others = free_ports(4)
    names = ("-master.port", "-volume.port", "-filer.port")
    command = [
        *(shutil.which("weed", path=str(Path(os.sys.executable).parent)) or "weed", "server", f"-dir={folder}", "-s3"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", f"-s3.config={folder}/identities.json"),
        *("-volume.max=400", "-master.volumeSizeLimitMB=64", f"-s3.port={port}"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"{name}={other}" for name, other in zip(names, others, strict=True)),
    ]
    environment = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_REGION": "us-east-1",
    }
    with open(folder / "weed.log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        os.environ.update(environment)
        _forget_other_servers()
        try:
            _await(S3Server(environment, server.pid), folder / "weed.log")
            yield S3Server(environment, server.pid)
        finally:
            server.kill()
            server.wait()
            for name in environment:
                os.environ.pop(name, None)
            _forget_other_servers()


def _forget_other_servers() -> None:
    """Drop what clients keep of a server: they are told apart by their arguments, and not by the environment."""
    s3fs.S3FileSystem.clear_instance_cache()
    s3_store.cache_clear()


def _await(server: S3Server, log: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            server.filesystem().mkdir("ready")
            return
        except Exception as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server did not start: {log.read_text()[-2000:]}") from error
            time.sleep(0.5)


@pytest.fixture(scope="package")
def cluster(s3: S3Server) -> Iterator[None]:
    """Embedded Ray, whose workers inherit the S3 server's credentials."""
    from pipelines.run import connect

    connect()
    yield
    ray.shutdown()
