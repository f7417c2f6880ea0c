"""What a job takes along: the same recipe, our code without the demo's clips, the user's module, and no secret."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from pipelines.errors import RecipeError
from pipelines.recipe import Recipe, load_recipe, parse_recipe
from pipelines.shipment import local_paths, pack
from pipelines.submit import night_name

CONTENT = {"corpus": "calls", "source": {"uri": "s3://bucket/calls/"}, "lake": {"uri": "s3://lake/speech"}}


def recipe(**more: object) -> Recipe:
    return parse_recipe({**CONTENT, **more}, "the test's recipe")


@pytest.mark.parametrize(
    "more",
    [
        {"transcripts": [{"model": "whisper-tiny.en", "words": True}], "pools": {"actors": 3}},
        {"spectrograms": [{"kind": "log_mel", "f_min": 20.0}], "limits": {"max_failed_fraction": 0.0}},
        {
            "source": {"manifest": "s3://bucket/list.csv", "allow": ["http"]},
            "segments": {"by": "whole"},
            "transcripts": [{"model": "reference", "align_with": "facebook/wav2vec2-base-960h", "text_column": "said"}],
        },
    ],
)
def test_the_recipe_that_arrives_is_the_one_that_was_sent(tmp_path: Path, more: dict[str, object]) -> None:
    sent = recipe(**more)
    pack(sent, tmp_path)
    assert load_recipe(tmp_path / "recipe.yaml") == sent


def test_local_paths_arrive_absolute_and_are_named(tmp_path: Path) -> None:
    (tmp_path / "here.yaml").write_text("corpus: calls\nsource: {uri: clips/}\nlake: {uri: lake}\n")
    sent = load_recipe(tmp_path / "here.yaml")
    (tmp_path / "packed").mkdir()
    pack(sent, tmp_path / "packed")
    assert load_recipe(tmp_path / "packed" / "recipe.yaml").lake.uri == f"{tmp_path}/lake"
    assert local_paths(sent) == [f"{tmp_path}/clips/", f"{tmp_path}/lake"]
    assert local_paths(recipe()) == []


def test_the_command_runs_from_what_was_packed_alone(tmp_path: Path) -> None:
    pack(recipe(), tmp_path)
    command = [sys.executable, "-m", "pipelines", "plan", "recipe.yaml", "--set", "source.uri=/no/such/folder/"]
    done = subprocess.run(
        [*command, "--set", f"lake.uri={tmp_path}/lake"], cwd=tmp_path, capture_output=True, text=True, env={}
    )
    assert (done.returncode, "there is no folder /no/such/folder/" in done.stderr) == (2, True), done.stderr
    assert not list(tmp_path.rglob("*.wav"))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.py")) < 3 << 20


def test_a_module_of_ones_own_travels_with_the_files_beside_it_and_a_package_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "ours" / "deep").mkdir(parents=True)
    for name in ("mine.py", "beside.py", "ours/__init__.py", "ours/deep/__init__.py", "ours/deep/net.py"):
        (home / name).write_text("")
    (home / "notes.txt").write_text("mine")
    monkeypatch.chdir(home)
    (tmp_path / "packed").mkdir()
    pack(recipe(embeddings=[{"model": "mine:Model"}, {"model": "ours.deep.net:Model"}]), tmp_path / "packed")
    found = {str(path.relative_to(tmp_path / "packed")) for path in (tmp_path / "packed").rglob("*.*")}
    assert {"mine.py", "beside.py", "ours/__init__.py", "ours/deep/net.py"} <= found
    assert "notes.txt" not in found


def test_a_module_that_is_not_here_and_a_model_in_a_folder_of_this_machine_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    with pytest.raises(RecipeError, match="there is no module nowhere_at_all here"):
        pack(recipe(tags=[{"model": "nowhere_at_all:Model"}]), tmp_path / "one")
    with pytest.raises(RecipeError, match="weights is a folder of this machine"):
        pack(recipe(embeddings=[{"model": "weights"}]), tmp_path / "two")


def test_a_night_is_a_corpus_a_day_of_utc_and_a_recipe_whatever_its_budget() -> None:
    evening = datetime(2026, 11, 24, 23, 30, tzinfo=timezone(timedelta(hours=-2)))
    name = night_name(recipe(), evening)
    assert name == f"phonolake-calls-20261125-{recipe().fingerprint()[:8]}"
    assert night_name(recipe(limits={"max_failed_fraction": 1.0}), evening.astimezone(UTC)) == name
    assert night_name(recipe(segments={"by": "whole"}), evening) != name
