"""What a command does with attempts that nodes left: they do not count while something gets done."""

from types import SimpleNamespace
from typing import Any

import pytest

import pipelines.run
from pipelines.errors import PhonolakeError, RecipeError
from pipelines.run import ATTEMPTS_AT_ONCE
from pipelines.watch import NodesLost

PLAN = SimpleNamespace(corpus="calls", run="00001", recordings=100)


class Script:
    """Attempts that end as told: so many recordings left, and whether nodes left meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *attempts: tuple[int, bool]) -> None:
        self.attempts, self.missing, self.tried_again = list(attempts), 100, []
        self.divided = 0
        for name, stand_in in (
            ("survey", self._survey),
            ("attempt", self._attempt),
            ("_check_budget", lambda *given: None),
            ("_decided", lambda *given: "verdict"),
            ("decide", lambda *given: None),
            ("_shares", self._shares),
        ):
            monkeypatch.setattr(pipelines.run, name, stand_in)

    def _survey(self, store: Any, plan: Any, *, try_again: bool) -> SimpleNamespace:
        self.tried_again.append(try_again)
        return SimpleNamespace(missing=self.missing, failed=0, evidence=None, winners=None)

    def _attempt(self, *given: Any) -> None:
        self.missing, lost = self.attempts.pop(0)
        if lost:
            raise NodesLost("nodes left the cluster")

    def _shares(self, *given: Any) -> None:
        self.divided += 1

    def run(self) -> Any:
        store = SimpleNamespace(exists=lambda path: False)
        return pipelines.run._reach_verdict(None, store, PLAN, [], None)  # type: ignore[arg-type]


def test_attempts_that_got_somewhere_before_nodes_left_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [(90 - 10 * number, True) for number in range(2 * ATTEMPTS_AT_ONCE)]
    script = Script(monkeypatch, *losses, (0, False))
    assert script.run() == "verdict"
    assert script.divided == len(losses)


def test_what_stores_did_not_deliver_is_tried_again_until_an_attempt_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, (50, True), (10, False), (0, False))
    assert script.run() == "verdict"
    assert script.tried_again == [True, True, False, False]


@pytest.mark.parametrize("lost", [True, False])
def test_attempts_that_get_nowhere_are_bounded(monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
    script = Script(monkeypatch, *[(100, lost)] * 50)
    with pytest.raises(PhonolakeError, match="have no receipt after 3 attempts"):
        script.run()
    assert len(script.attempts) == 50 - ATTEMPTS_AT_ONCE


def test_a_cluster_that_shrank_too_far_is_not_the_recipes_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, (50, True), (0, False))

    def nothing_left(*given: Any) -> None:
        raise RecipeError("the cluster has no CPU to run on")

    monkeypatch.setattr(pipelines.run, "_shares", nothing_left)
    with pytest.raises(PhonolakeError, match="run the same command to resume") as caught:
        script.run()
    assert caught.value.exit_code == 1
