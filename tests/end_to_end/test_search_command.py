"""A lake embedded by the real pipeline with a tiny CLAP and YAMNet, searched with the command as users run it."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.end_to_end.test_command_line import DEMO, phonolake
from tests.tiny_sound_models import write_clap

CLIPS = ("en/beep.wav", "en/invalid.wav", "en/vm-goodbye.wav", "en/tt-weasels.wav")


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clap(tmp_path_factory.mktemp("models") / "clap", fusion=True)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, clap: Path) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "clips").mkdir()
    for name in CLIPS:
        shutil.copy(DEMO / name, folder / "clips")
    shutil.copy(DEMO / CLIPS[0], folder / "clips" / "beep-again.wav")
    recipe = {
        "corpus": "clips",
        "source": {"uri": "clips/"},
        "lake": {"uri": "lake"},
        "segments": {"by": "whole"},
        "embeddings": [{"model": str(clap)}, {"model": "yamnet"}],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = phonolake("run", folder / "recipe.yaml")
    assert done.returncode == 0, done.stderr
    return folder / "lake"


def segment_of(lake: Path, name: str) -> str:
    sql = f"SELECT segment_id FROM segments JOIN recordings USING (recording_id) WHERE uri LIKE '%/{name}'"
    (row,) = json.loads(phonolake("query", lake, sql, "--json").stdout)
    return row["segment_id"]


def test_a_text_ranks_all_segments_and_says_where_they_are(lake: Path, clap: Path) -> None:
    done = phonolake("search", lake, "crowd chanting", "--model", clap, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["compared"], found["left_out"], found["pooling"], found["dim"]) == (5, 0, "mean", 24)
    assert [Path(match["uri"]).name for match in found["matches"]].count("beep.wav") == 1
    scores = [match["score"] for match in found["matches"]]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert all(match["end_seconds"] > match["start_seconds"] == 0 for match in found["matches"])


@pytest.mark.parametrize("model", ["clap", "yamnet"])
def test_the_same_sound_under_another_name_is_the_nearest(lake: Path, clap: Path, model: str) -> None:
    named = str(clap) if model == "clap" else model
    done = phonolake("similar", lake, segment_of(lake, "beep.wav"), "--model", named, "--limit", 2, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    best, second = found["matches"]
    assert Path(best["uri"]).name == "beep-again.wav"
    assert best["score"] == pytest.approx(1, abs=1e-5)
    assert second["score"] < best["score"]
    assert found["compared"] == 4


def test_people_get_a_table(lake: Path) -> None:
    done = phonolake("similar", lake, segment_of(lake, "beep.wav"), "--model", "yamnet")
    assert "beep-again.wav" in done.stdout
    assert done.stdout.endswith("4 segments compared by yamnet\n")


def test_wrong_questions_end_with_2_and_say_what_is_wrong(lake: Path, clap: Path) -> None:
    asked = {
        ("search", lake, "a beep"): f"several models; choose with --model: {clap}, yamnet",
        ("search", lake, "a beep", "--model", "yamnet"): "is a yamnet model and reads no texts",
        ("similar", lake, "nobody-00000", "--model", "yamnet"): "no current segment nobody-00000",
        ("similar", lake, "nobody-00000", "--limit", "0"): "--limit",
        ("search", lake.parent, "a beep"): "is it a lake?",
    }
    for arguments, said in asked.items():
        done = phonolake(*arguments)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
