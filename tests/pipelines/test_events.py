"""Events reach who listens, and nobody who listens can hold up a run."""

import json
import logging
from pathlib import Path

import pytest

from pipelines.errors import BudgetExceeded, RecipeError
from pipelines.event_log import EventLog
from pipelines.events import RUN_FAILED, RUN_SEALED, Event, listening, tell
from pipelines.operation import operating
from pipelines.recipe import Recipe, parse_recipe
from pipelines.store import Store


def recipe(folder: Path) -> Recipe:
    content = {"corpus": "clips", "source": {"uri": str(folder / "clips")}, "lake": {"uri": str(folder / "lake")}}
    return parse_recipe(content, "recipe")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_go_to_whoever_listens_and_only_while_it_does() -> None:
    heard: list[str] = []
    with listening(lambda event: heard.append(event.name)):
        tell(Event(RUN_SEALED, "clips", "00001"))
    tell(Event(RUN_SEALED, "clips", "00002"))
    assert heard == [RUN_SEALED]


def test_a_listener_that_fails_costs_a_line_and_the_others_hear_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    def deaf(event: Event) -> None:
        raise OSError("the disk is full")

    with caplog.at_level(logging.WARNING), listening(deaf, lambda event: heard.append(event.name)):
        tell(Event(RUN_SEALED, "clips", "00001"))
    assert heard == [RUN_SEALED]
    assert caplog.messages == ["run_sealed was not noted: OSError: the disk is full"]


def test_a_line_has_always_the_same_keys(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "logs" / "events.jsonl"))
    log(Event(RUN_SEALED, "clips", "00001", seconds=1.23456, counts={"ok": 3}))
    log(Event(RUN_FAILED, "clips", message="größer\nals"))
    first, second = lines(tmp_path / "logs" / "events.jsonl")
    assert list(first) == list(second) == ["time", "event", "corpus", "run", "attempt", "seconds", "counts", "message"]
    assert (first["event"], first["seconds"], first["counts"]) == ("run_sealed", 1.235, {"ok": 3})
    assert (second["run"], second["message"]) == (None, "größer\nals")


def test_a_log_that_cannot_be_written_is_refused_before_anything_begins(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match="--log-json"):
        EventLog(str(tmp_path / "file" / "events.jsonl"))


def test_a_command_that_fails_says_so_with_its_run_and_exit_code(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"

    def carry_out() -> None:
        with operating(recipe(tmp_path), lambda: Store(str(tmp_path)), str(log)):
            tell(Event("run_planned", "clips", "00007"))
            raise BudgetExceeded("too many failed")

    with pytest.raises(BudgetExceeded):
        carry_out()
    told = lines(log)[-1]
    assert (told["event"], told["run"], told["counts"]) == ("run_failed", "00007", {"exit_code": 3})
    assert told["message"] == "too many failed"


def test_a_command_that_is_interrupted_has_failed_too(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    with pytest.raises(KeyboardInterrupt), operating(recipe(tmp_path), lambda: Store(str(tmp_path)), str(log)):
        raise KeyboardInterrupt
    assert [(one["event"], one["message"]) for one in lines(log)] == [("run_failed", "KeyboardInterrupt")]


def test_events_may_go_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    EventLog("-")(Event(RUN_SEALED, "clips", "00001"))
    said = capsys.readouterr()
    assert (said.out, json.loads(said.err)["event"]) == ("", "run_sealed")
