"""The command as users run it: exit codes, messages, and what is written when something is wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.end_to_end.conftest import S3Server

DEMO = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "corpus"


def phonolake(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=600, check=False
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe without models over five real clips and two broken ones."""
    clips = tmp_path / "clips"
    for name in ("en/beep.wav", "en/invalid.wav", "en/priv-introsaved.opus", "en/tt-allbusy.m4a", "en/vm-newuser.mp4"):
        (clips / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEMO / name, clips / name)
    shutil.copy(DEMO / "broken" / "empty.wav", clips / "empty.wav")
    shutil.copy(DEMO / "broken" / "notes.wav", clips / "notes.wav")
    return write(tmp_path, {"corpus": "clips", "source": {"uri": "clips/"}, "lake": {"uri": "lake"}})


def write(folder: Path, content: dict[str, object]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_an_unknown_key_ends_with_2_names_the_nearest_and_writes_nothing(recipe: Path) -> None:
    done = phonolake("run", recipe, "--set", "segmets.by=whole")
    assert done.returncode == 2
    assert "segmets: unknown key; did you mean segments?" in done.stderr
    assert not (recipe.parent / "lake").exists()


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("s3://no-such-bucket/prefix/", 2, "the bucket s3://no-such-bucket does not exist"),
        ("s3://ready/nothing/here/", 2, "there is no object in s3://ready/nothing/here/"),
        ("/no/such/folder/", 2, "there is no folder /no/such/folder/"),
    ],
)
def test_a_source_with_nothing_in_it_ends_with_2_and_writes_nothing(
    s3: S3Server, tmp_path: Path, source: str, code: int, said: str
) -> None:
    path = write(tmp_path, {"corpus": "x", "source": {"uri": source}, "lake": {"uri": "lake"}})
    done = phonolake("run", path)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "lake").exists()


def test_wrong_credentials_end_with_1_and_say_what_to_set(s3: S3Server, tmp_path: Path) -> None:
    path = write(tmp_path, {"corpus": "x", "source": {"uri": "s3://ready/"}, "lake": {"uri": "lake"}})
    done = phonolake("run", path, AWS_SECRET_ACCESS_KEY="wrong")
    assert done.returncode == 1
    assert "refuses the credentials" in done.stderr
    assert "AWS_ACCESS_KEY_ID" in done.stderr
    assert not (tmp_path / "lake").exists()


def test_a_model_that_is_not_to_be_had_ends_with_2_before_anything_is_read(recipe: Path) -> None:
    done = phonolake("run", recipe, "--set", "transcripts=[{model: no/such-model}]", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "no/such-model" in done.stderr
    assert not (recipe.parent / "lake").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("spectrograms=[{kind: power, n_bins: 80}]", "takes no n_bins"),
        ("spectrograms=[{kind: log_mel, f_max: 9000}]", "9000"),
        ("segments={by: windows, max_seconds: 5, hop_seconds: 9}", "hop"),
        ("transcripts=[{model: whisper-tiny.en, language: de}]", "no language 'de'"),
        ("transcripts=[{model: whisper-tiny.en, task: translate}]", "cannot translate"),
        ("embeddings=[{model: whisper-tiny.en}]", "is a whisper model"),
    ],
)
def test_settings_that_no_worker_could_serve_end_with_2_before_a_plan_binds_anyone(
    recipe: Path, change: str, said: str
) -> None:
    done = phonolake("run", recipe, "--set", change)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (recipe.parent / "lake").exists()


def test_plan_tells_what_run_would_do_and_changes_nothing(recipe: Path) -> None:
    done = phonolake("plan", recipe, "--json")
    facts = json.loads(done.stdout)
    assert (facts["listed"], facts["new"], facts["changed"], facts["gone"]) == (7, 7, 0, 0)
    assert 0.005 < facts["estimated_hours"] < 0.01
    assert facts["recipe"]["segments"]["by"] == "speech"
    assert not (recipe.parent / "lake").exists()


def test_a_run_can_be_looked_at_with_every_command_and_the_next_one_finds_nothing_new(recipe: Path) -> None:
    lake = recipe.parent / "lake"
    done = phonolake("run", recipe)
    assert done.returncode == 0, done.stderr
    assert "5 ok, 0 partial, 2 failed" in done.stdout

    (status,) = json.loads(phonolake("status", lake, "--json").stdout)
    assert (status["recordings"], status["failed"], status["open_run"]) == (5, 2, None)
    failures = json.loads(phonolake("failures", lake, "--json").stdout)
    assert {(row["code"], Path(row["uri"]).name) for row in failures} == {
        ("empty", "empty.wav"),
        ("not_audio", "notes.wav"),
    }
    assert "not_audio" in phonolake("failures", lake).stdout
    rows = json.loads(phonolake("query", lake, "SELECT container, codec FROM recordings ORDER BY uri", "--json").stdout)
    assert [row["codec"] for row in rows] == ["pcm_16", "pcm_16", "opus", "aac", "aac"]
    assert phonolake("query", lake, "SELEKT 1").returncode == 2

    again = phonolake("run", recipe)
    assert again.returncode == 0
    assert "nothing new" in again.stdout


def test_a_new_stage_is_computed_alone_and_a_new_object_too(recipe: Path) -> None:
    lake = recipe.parent / "lake"
    assert phonolake("run", recipe).returncode == 0
    shutil.copy(DEMO / "en" / "vm-goodbye.wav", recipe.parent / "clips" / "late.wav")
    more = ("--set", "spectrograms=[{kind: mfcc}]")
    facts = json.loads(phonolake("plan", recipe, *more, "--json").stdout)
    assert (facts["new"], facts["stage_only"]) == (1, 5)
    assert facts["stages"] == {"segments/speech": 1, "spectrograms/mfcc": 6}
    assert phonolake("run", recipe, *more).returncode == 0
    sql = (
        "SELECT (SELECT count(*) FROM recordings) AS recordings, "
        "(SELECT count(DISTINCT recording_id) FROM recordings) AS distinct_recordings, "
        "(SELECT count(*) FROM segments) = (SELECT count(*) FROM spectrograms) AS every_segment"
    )
    (row,) = json.loads(phonolake("query", lake, sql, "--json").stdout)
    assert row == {"recordings": 6, "distinct_recordings": 6, "every_segment": True}


def test_the_failure_budget_ends_with_3_and_lifting_it_resumes_without_computing_again(recipe: Path) -> None:
    lake = recipe.parent / "lake"
    none = ("--set", "limits.tolerated_failures=0")
    done = phonolake("run", recipe, *none, "--set", "limits.max_failed_fraction=0.1")
    assert done.returncode == 3
    assert re.search(r"[12] of 7 recordings failed, more than limits.max_failed_fraction 0.1", done.stderr)
    assert re.search(r"Most often (empty|not_audio) \([12]\), as .*/(empty|notes)\.wav: ", done.stderr)
    assert not (lake / "data").exists()

    other = phonolake("run", recipe, "--set", "segments.by=whole")
    assert other.returncode == 4
    assert "was planned with another recipe" in other.stderr

    lifted = phonolake("run", recipe, "--set", "limits.max_failed_fraction=1", "--json")
    assert lifted.returncode == 0
    assert json.loads(lifted.stdout)["attempts"] <= 2  # the first may have been over before all was tried
    assert (json.loads(lifted.stdout)["ok"], json.loads(lifted.stdout)["failed"]) == (5, 2)


def test_a_folder_that_is_no_lake_is_said_to_be_none(tmp_path: Path) -> None:
    done = phonolake("status", tmp_path)
    assert done.returncode == 2
    assert "no runs" in done.stderr
