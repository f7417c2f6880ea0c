import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from manifests import KUBERNETES, kind

TODAY = datetime.now(UTC).date()
PATH = "/apis/ray.io/v1/namespaces/phonolake/rayjobs"


class ApiServer(ThreadingHTTPServer):
    """As much of the Kubernetes API as one account may use of it: create and get RayJobs of one namespace."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: dict[str, dict[str, Any]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def do_GET(self) -> None:
        found = self.server.jobs.get(self.path.removeprefix(f"{PATH}/"))
        self._answer(200 if found else 404, found or {"reason": "NotFound"})

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = job["metadata"]["name"]
        if self.path != PATH:
            self._answer(403, {"reason": "Forbidden"})
        elif name in self.server.jobs:
            self._answer(409, {"reason": "AlreadyExists"})
        else:
            self.server.jobs[name] = job
            self._answer(201, job)

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        if self.headers["Authorization"] != "Bearer of-the-account":
            code, body = 401, {"reason": "Unauthorized"}
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def create(api: ApiServer, tmp_path: Path, token: str = "of-the-account") -> subprocess.CompletedProcess[str]:
    """Run the script as the nightly pod does, in an environment without anything of ours."""
    (tmp_path / "token").write_text(f"{token}\n")
    script, job = (str(KUBERNETES / name) for name in ("create_rayjob.py", "rayjob.yaml"))
    command = [sys.executable, script, job, "--server", api.url, "--account", str(tmp_path)]
    return subprocess.run(command, env={"PATH": os.environ["PATH"]}, cwd=tmp_path, capture_output=True, text=True)


def name(days: int = 0) -> str:
    return f"phonolake-{TODAY - timedelta(days=days)}"


def test_the_nights_job_is_the_manifest_under_the_name_of_the_day(api: ApiServer, tmp_path: Path) -> None:
    done = create(api, tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{name()} created\n")
    [made] = api.jobs.values()
    wanted = kind("RayJob")
    assert made == {**wanted, "metadata": {**wanted["metadata"], "name": name()}}
    assert len(name()) <= 47  # what KubeRay takes


def test_a_second_creation_on_the_same_day_is_refused_by_the_api_and_as_good_as_done(
    api: ApiServer, tmp_path: Path
) -> None:
    create(api, tmp_path)
    again = create(api, tmp_path)
    assert (again.returncode, again.stdout) == (0, f"{name()} exists already\n")
    assert len(api.jobs) == 1


@pytest.mark.parametrize("status", ["Running", "Initializing", None])
def test_nothing_is_created_while_yesterdays_is_at_work(api: ApiServer, tmp_path: Path, status: str | None) -> None:
    api.jobs[name(1)] = {"metadata": {"name": name(1)}} | (
        {"status": {"jobDeploymentStatus": status}} if status else {}
    )
    refused = create(api, tmp_path)
    assert refused.returncode == 1
    assert f"{name(1)} is still {status or 'New'}; {name()} is not created" in refused.stderr
    assert len(api.jobs) == 1


@pytest.mark.parametrize("status", ["Complete", "Failed"])
def test_a_job_of_yesterday_that_has_ended_holds_nothing_up(api: ApiServer, tmp_path: Path, status: str) -> None:
    api.jobs[name(1)] = {"metadata": {"name": name(1)}, "status": {"jobDeploymentStatus": status}}
    assert create(api, tmp_path).returncode == 0
    assert name() in api.jobs


def test_an_account_that_may_not_is_told_why(api: ApiServer, tmp_path: Path) -> None:
    refused = create(api, tmp_path, token="of another")
    assert refused.returncode == 1
    assert "401" in refused.stderr
    assert "Unauthorized" in refused.stderr


def test_a_server_that_does_not_answer_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    with ApiServer() as gone:
        pass
    refused = create(gone, tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("the API server does not answer")
    assert "Traceback" not in refused.stderr
