"""Create the night's RayJob, named after the day (UTC), through the Kubernetes API; what nightly.yaml runs.

Creating is once a day whatever happens: the API refuses a second object of a name (409), and that is as good as done.
Nothing is created while yesterday's job is still at work. Exit codes: 0 there is a job of today, 1 there is none.
"""

import argparse
import json
import ssl
import sys
import urllib.error
import urllib.request
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import yaml

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ENDED: Final = ("Complete", "Failed")
SECONDS: Final = 30.0


class Jobs:
    """The RayJobs of a namespace, as an account of the cluster sees them."""

    def __init__(self, server: str, account: Path, namespace: str) -> None:
        """Take the API server's address, and the folder that Kubernetes mounts for an account."""
        self._url = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self._token = (account / "token").read_text().strip()
        authority = account / "ca.crt"
        self._context = ssl.create_default_context(cafile=str(authority)) if server.startswith("https") else None

    def get(self, name: str) -> dict[str, Any] | None:
        """Return a job; None where there is none."""
        try:
            return self._ask("GET", f"{self._url}/{name}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def create(self, job: dict[str, Any]) -> bool:
        """Create a job; False where there is one of that name."""
        try:
            self._ask("POST", self._url, json.dumps(job).encode())
        except urllib.error.HTTPError as error:
            if error.code == 409:
                return False
            raise
        return True

    def _ask(self, method: str, url: str, body: bytes | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=SECONDS, context=self._context) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


def name_of(job: dict[str, Any], day: date) -> str:
    """Return what the job of a day is called."""
    return f"{job['metadata']['name']}-{day.isoformat()}"


def create_todays(jobs: Jobs, job: dict[str, Any], today: date) -> tuple[bool, str]:
    """Create the job of a day unless it exists or yesterday's is at work; whether there is one now, and what to say."""
    yesterday = jobs.get(name_of(job, today - timedelta(days=1)))
    name = name_of(job, today)
    if yesterday is not None:
        status = yesterday.get("status", {}).get("jobDeploymentStatus", "New")
        if status not in ENDED:
            return False, f"{yesterday['metadata']['name']} is still {status}; {name} is not created"
    if jobs.create({**job, "metadata": {**job["metadata"], "name": name}}):
        return True, f"{name} created"
    return True, f"{name} exists already"


def main() -> None:
    """Create today's job of a manifest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path, help="a RayJob")
    parser.add_argument("--server", default="https://kubernetes.default.svc")
    parser.add_argument("--account", type=Path, default=ACCOUNT)
    options = parser.parse_args()
    job = yaml.safe_load(options.manifest.read_text())
    jobs = Jobs(options.server, options.account, job["metadata"]["namespace"])
    try:
        done, said = create_todays(jobs, job, datetime.now(UTC).date())
    except urllib.error.HTTPError as error:
        done, said = False, f"the API server refuses {error.url}: {error.code} {error.read().decode()}"
    except OSError as error:
        done, said = False, f"the API server does not answer: {error}"
    print(said, file=sys.stdout if done else sys.stderr)
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
