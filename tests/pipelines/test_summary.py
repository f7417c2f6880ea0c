"""The closing summary of a run: recordings that no model has heard, and commands that a shell takes."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from test_lake import one_row
from typer.testing import CliRunner
from warehouse_lake import sealed

import pipelines.run
from pipelines.cli import app
from pipelines.demo.show import _next_commands
from pipelines.report import summary, summary_text, without_speech
from pipelines.store import Store
from schemas.records import Seal


def night(store: Store, *speech: float | None) -> Seal:
    """A sealed run whose recordings hold so many seconds of speech; None where nothing listened for it."""
    rows = [one_row("recordings", recording_id=f"r{place}", speech_seconds=one) for place, one in enumerate(speech)]
    return sealed(store, 1, {"recordings": pa.concat_tables(rows), "segments": one_row("segments")})


@pytest.mark.parametrize(("speech", "count"), [((0.0, 1.5, 0.0), 2), ((None, None), 0), ((0.5,), 0)])
def test_recordings_that_were_heard_and_hold_no_speech_are_counted(store, speech, count):
    seal = night(store, *speech)
    assert without_speech(store, seal) == count
    assert summary(seal, count)["without_speech"] == count
    text = summary_text(seal, 1.0, "lake", count)
    assert ("recordings without speech" in text) == bool(count)
    if count:
        assert f"\n  {count} recordings without speech: no segment" in text
        assert "segments.by: windows or whole" in text


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    content = {"corpus": "prompts", "source": {"uri": "clips/"}, "lake": {"uri": "my [lake]'s dir"}}
    path.write_text(yaml.safe_dump(content))
    return path


def test_run_counts_them_in_text_and_as_json(recipe, monkeypatch):
    seal = night(Store(str(recipe.parent / "my [lake]'s dir")), 0.0, 0.25)
    monkeypatch.setattr(pipelines.run, "run", lambda _: seal)
    said = CliRunner().invoke(app, ["run", str(recipe)])
    assert "1 recordings without speech" in said.stdout
    told = json.loads(CliRunner().invoke(app, ["run", str(recipe), "--json"]).stdout)
    assert told["without_speech"] == 1


def test_the_command_that_shows_why_something_failed_is_one_that_a_shell_takes(recipe, monkeypatch):
    lake = str(recipe.parent / "my [lake]'s dir")
    seal = replace(night(Store(lake), 0.25), failed=1)
    monkeypatch.setattr(pipelines.run, "run", lambda _: seal)
    said = CliRunner().invoke(app, ["run", str(recipe), "--set", "lake.storage.endpoint_url=http://h:1"]).stdout
    command = said.partition("see why: ")[2].splitlines()[0]
    assert shlex.split(command) == ["phonolake", "failures", lake, "--endpoint-url", "http://h:1"]


def test_the_demos_next_commands_are_ones_that_a_shell_takes():
    for command in _next_commands(Path("my lake"))[:3]:
        assert "my lake" in shlex.split(command)
