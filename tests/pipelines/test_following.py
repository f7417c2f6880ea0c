"""A job is handed in once and followed to its end, whatever its head and what lies between do meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import requests

import pipelines.submit
from pipelines.errors import JobAtWork, PhonolakeError
from pipelines.recipe import Recipe, parse_recipe
from pipelines.submit import PATIENCE_SECONDS, follow, submit

LOG = ["planned\n", "half\n", "done\n"]


def recipe() -> Recipe:
    return parse_recipe({"corpus": "calls", "source": {"uri": "/audio/"}, "lake": {"uri": "/lake"}}, "test")


def status(word: str) -> SimpleNamespace:
    return SimpleNamespace(value=word, is_terminal=lambda: word != "RUNNING")


class Head:
    """A Jobs API whose log breaks off, goes silent, or comes whole; a clock that it moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *tails: tuple[int, str]) -> None:
        self.now, self.tails = 0.0, list(tails)
        monkeypatch.setattr(pipelines.submit, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep))
        monkeypatch.setattr(pipelines.submit, "SILENCE_SECONDS", 0.05)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
        count, then = self.tails.pop(0)
        for text in LOG[:count]:
            self.now += PATIENCE_SECONDS  # each line takes as long as one may be silent
            yield text
        if then == "breaks":
            raise RuntimeError("WebSocket connection closed")
        if then == "silent":
            await asyncio.sleep(60)

    def get_job_info(self, submission_id: str) -> SimpleNamespace:
        word = "RUNNING" if self.tails else "SUCCEEDED"
        return SimpleNamespace(status=status(word), driver_exit_code=0, message="")


@pytest.mark.parametrize("trouble", ["breaks", "silent"])
def test_a_log_that_was_long_and_then_is_cut_off_is_read_on_and_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trouble: str
) -> None:
    head = Head(monkeypatch, (2, trouble), (2, trouble), (3, "ends"))
    assert follow(head, "night-1").exit_code == 0
    assert capsys.readouterr().err == "".join(LOG)


def test_a_head_that_never_answers_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    head = Head(monkeypatch, (1, "breaks"), *[(0, "breaks")] * 1000)
    with pytest.raises(PhonolakeError, match="has not answered for 600 s"):
        follow(head, "night-1")


class Counter:
    """A Jobs API that takes jobs, but whose answers may be lost."""

    def __init__(self, *answers: Exception | None, lists: Exception | None = None) -> None:
        self.jobs: list[Any] = []
        self.answers, self.lists = list(answers), lists

    def list_jobs(self) -> list[Any]:
        if error := self.lists:
            self.lists = None
            raise error
        return self.jobs

    def submit_job(self, submission_id: str, metadata: dict[str, str], **more: Any) -> str:
        self.jobs.append(SimpleNamespace(submission_id=submission_id, metadata=metadata, status=status("RUNNING")))
        if error := self.answers.pop(0):
            raise error
        return submission_id


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines.submit, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(pipelines.submit, "pack", lambda recipe, folder: None)


@pytest.mark.usefixtures("quick")
def test_a_job_whose_answer_was_lost_is_ours() -> None:
    head = Counter(requests.ConnectionError("reset by peer"))
    found = submit(head, recipe(), join=False)
    assert not found.joined
    assert [job.submission_id for job in head.jobs] == [found.id]


@pytest.mark.usefixtures("quick")
def test_a_head_that_has_only_just_started_is_asked_again() -> None:
    head = Counter(None, lists=RuntimeError("not ready, try again later"))
    assert submit(head, recipe(), join=False).id.endswith("-1")
    with pytest.raises(JobAtWork):
        submit(head, recipe(), join=False)


@pytest.mark.usefixtures("quick")
def test_a_head_that_is_not_there_is_an_error_in_words() -> None:
    head = Counter()
    head.list_jobs = lambda: (_ for _ in ()).throw(requests.ConnectionError("refused"))  # type: ignore[method-assign]
    with pytest.raises(PhonolakeError, match=r"did not take a job phonolake-calls-.*refused"):
        submit(head, recipe(), join=False)
