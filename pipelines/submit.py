"""A run as a job of a Ray cluster: one job a night, known by its name, followed to its exit code.

A night is a corpus, a recipe and a day (UTC). Its jobs are called `phonolake-<corpus>-<day>-<recipe>-<try>`: `recipe`
is the first eight hex digits of the recipe's fingerprint, and `try` counts from 1, because Ray never takes a name
twice. A next try is made only when the last is over, well or not. So of two that submit the same night at once, one is
refused by Ray itself, and finds the other's job.

The name is for people. What a job is at work on stands in its metadata, and is looked up for all days: a night that
takes longer than a day must not be doubled either. Two jobs on one run would lose no row (docs/protocol.md), only time.
"""

import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import requests

from pipelines.errors import JobAtWork, OpenRunConflict, PhonolakeError
from pipelines.recipe import Recipe
from pipelines.shipment import RECIPE_FILE, pack

ENTRYPOINT: Final = f"python -m pipelines run {RECIPE_FILE}"
FINGERPRINT_HEX: Final = 8
TRIES: Final = 6  # to hand a job in
PASSING: Final = ("already exists", "try again later")  # somebody was faster; a head that has only just started
PAUSE_SECONDS: Final = 2.0  # between looks at a job
SILENCE_SECONDS: Final = 120.0  # of a log, before the job itself is asked for
PATIENCE_SECONDS: Final = 600.0  # with a cluster that does not answer while a job is followed
KNOWN_CODES: Final = range(5)
_CHATTY: Final = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
)  # they log what they do anyway


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that carries a recipe out.

    Attributes:
        id: its submission id.
        joined: whether somebody else submitted it.
    """

    id: str
    joined: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: Ray's word for it, and the exit code of the pipeline (1 where it has none of its own)."""

    status: str
    exit_code: int
    message: str


def job_client(address: str) -> Any:
    """Return a client of a cluster's Jobs API.

    Raises:
        PhonolakeError: it does not answer, wants a token, or what is needed to ask it is not installed here.
    """
    try:
        from ray.job_submission import JobSubmissionClient

        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        return JobSubmissionClient(address)
    except ImportError as error:
        raise PhonolakeError(
            f"submitting needs {error.name}: pip install -c constraints.txt -e '.[cluster]'"
        ) from error
    except Exception as error:  # what it raises for what is nowhere said
        raise PhonolakeError(f"no Ray cluster takes jobs at {address}: {error}{_about_tokens(error)}") from error


def submit(client: Any, recipe: Recipe, *, join: bool, now: datetime | None = None) -> Submission:
    """Submit a recipe, or join the job that is at work on it.

    Raises:
        JobAtWork: there is one, and we are not to join it.
        OpenRunConflict: a job is at work on this corpus with another recipe.
    """
    told = {"corpus": recipe.corpus, "lake": recipe.lake.uri, "recipe": recipe.fingerprint()}
    night = night_name(recipe, now or datetime.now(UTC))
    handed_in, refusal = set[str](), ""
    for _ in range(TRIES):
        try:
            jobs = [job for job in client.list_jobs() if job.submission_id]
            if (at_work := _at_work(jobs, told)) is not None:
                ours = at_work.submission_id in handed_in  # taken, but the answer was lost
                return Submission(at_work.submission_id, joined=False) if ours else _joined(at_work, told, join)
            name = f"{night}-{_next_try(night, (job.submission_id for job in jobs))}"
            handed_in.add(name)
            return Submission(_submit(client, recipe, name, told), joined=False)
        except (RuntimeError, requests.RequestException) as error:
            refusal = str(error)
            if isinstance(error, RuntimeError) and not any(passing in refusal for passing in PASSING):
                break
            time.sleep(PAUSE_SECONDS)
    raise PhonolakeError(f"the cluster did not take a job {night}: {refusal}; the same command tries again")


def night_name(recipe: Recipe, now: datetime) -> str:
    """Return what the jobs of a night are called, but for the number of the try."""
    day = now.astimezone(UTC).strftime("%Y%m%d")
    return f"phonolake-{recipe.corpus}-{day}-{recipe.fingerprint()[:FINGERPRINT_HEX]}"


def follow(client: Any, submission_id: str) -> Outcome:
    """Copy what a job says to standard error until it ends, and return how it did.

    Raises:
        PhonolakeError: the cluster has not answered for long; the job may well go on.
    """
    log = _Log()
    while True:
        try:
            asyncio.run(_tail(client, submission_id, log))
            info = client.get_job_info(submission_id)
            log.heard_at = time.monotonic()
        except Exception as error:  # a head that restarts, a proxy that hangs up: whatever it raises, ask again
            if time.monotonic() - log.heard_at > PATIENCE_SECONDS:
                raise PhonolakeError(
                    f"job {submission_id}: the cluster has not answered for {PATIENCE_SECONDS:g} s ({error}); the same "
                    f"command joins the job if it goes on"
                ) from error
        else:
            if info.status.is_terminal():
                return _outcome(info)
        time.sleep(PAUSE_SECONDS)


@dataclass(slots=True)
class _Log:
    """How many characters of a job's log were printed, and when the cluster was last heard."""

    printed: int = 0
    heard_at: float = field(default_factory=time.monotonic)


async def _tail(client: Any, submission_id: str, log: _Log) -> None:
    """Print what a job's log has beyond what was printed, for as long as it is told.

    It comes from its beginning each time. A head that vanishes without a word says nothing for ever: after
    SILENCE_SECONDS the caller asks for the job itself.
    """
    seen, texts = 0, client.tail_job_logs(submission_id)
    with suppress(StopAsyncIteration, TimeoutError):
        while True:
            text = await asyncio.wait_for(anext(texts), SILENCE_SECONDS)
            log.heard_at = time.monotonic()
            print(text[max(0, log.printed - seen) :], end="", file=sys.stderr, flush=True)
            seen += len(text)
            log.printed = max(log.printed, seen)


def _outcome(info: Any) -> Outcome:
    status, code = str(info.status.value), info.driver_exit_code
    if status == "SUCCEEDED":
        return Outcome(status, 0, "done")
    if status == "FAILED" and code in KNOWN_CODES and code != 0:
        return Outcome(status, code, f"ended with exit code {code}")
    why = (info.message or "").strip().splitlines()
    how = "was stopped" if status == "STOPPED" else f"failed with exit code {code}" if code else "could not be started"
    return Outcome(status, PhonolakeError.exit_code, f"{how}: {why[0] if why else 'Ray does not say why'}")


def _submit(client: Any, recipe: Recipe, name: str, told: dict[str, str]) -> str:
    with tempfile.TemporaryDirectory(prefix="phonolake-job-") as folder:
        pack(recipe, Path(folder))
        taken: str = client.submit_job(
            entrypoint=ENTRYPOINT,
            submission_id=name,
            runtime_env={"working_dir": folder},
            metadata={f"phonolake_{key}": value for key, value in told.items()},
        )
        return taken


def _at_work(jobs: Iterable[Any], told: dict[str, str]) -> Any:
    """Return the job that is not over and fills this corpus of this lake."""
    return next(
        (
            job
            for job in jobs
            if not job.status.is_terminal()
            and all((job.metadata or {}).get(f"phonolake_{key}") == told[key] for key in ("corpus", "lake"))
        ),
        None,
    )


def _joined(job: Any, told: dict[str, str], join: bool) -> Submission:
    who = f"job {job.submission_id} is at work on corpus {told['corpus']} of {told['lake']}"
    if job.metadata.get("phonolake_recipe") != told["recipe"]:
        raise OpenRunConflict(f"{who} with another recipe; wait for its end, or stop it: ray job stop")
    if not join:
        raise JobAtWork(f"{who}; follow it with --wait, or wait for its end")
    return Submission(job.submission_id, joined=True)


def _next_try(night: str, names: Iterable[str]) -> int:
    tries = [name.removeprefix(f"{night}-") for name in names if name.startswith(f"{night}-")]
    return max((int(one) for one in tries if one.isdigit()), default=0) + 1


def _about_tokens(error: Exception) -> str:
    if "token" not in str(error).lower() and "401" not in str(error):
        return ""
    return "; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"
