"""A real lake on S3: its report has pictures and sound, its queries run there, and the doctor leaves nothing behind."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.doctor.cluster import check_ray
from pipelines.doctor.models import model_checks
from pipelines.doctor.stores import store_checks
from pipelines.recipe import Recipe, parse_recipe
from pipelines.run import run
from tests.end_to_end.conftest import S3Server

DEMO = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "corpus"
CLIPS = ("en/beep.wav", "en/invalid.wav", "en/vm-newuser.mp4", "broken/notes.wav")
ENDPOINT = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


def phonolake(*arguments: object, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name not in without}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)


@pytest.fixture(scope="module")
def recipe(s3: S3Server) -> Recipe:
    """Three clips and a broken one in a bucket, to be tagged."""
    filesystem = s3.filesystem()
    filesystem.mkdir("report")
    for name in CLIPS:
        filesystem.put_file(str(DEMO / name), f"report/clips/{name}")
    return parse_recipe(
        {
            "corpus": "clips",
            "source": {"uri": "s3://report/clips/"},
            "lake": {"uri": "s3://report/lake"},
            "spectrograms": [{"kind": "log_mel"}],
            "tags": [{"model": "yamnet", "top_k": 3}],
        },
        "recipe",
    )


def everything(s3: S3Server) -> list[str]:
    return sorted(s3.filesystem().find("report"))


def test_the_doctor_finds_a_good_recipe_good_and_leaves_nothing_behind(cluster: None, s3: S3Server, recipe: Recipe):
    before = everything(s3)
    checks = [check_ray(), *store_checks(recipe), *model_checks(recipe, has_ray=True)]
    assert [check for check in checks if check.state != "ok"] == []
    assert [check.name for check in checks] == ["ray", "source", "lake", "clock", "recipe", "pools", "model yamnet"]
    assert "a second of silence gives 3 tags" in checks[-1].said
    assert everything(s3) == before


def test_the_report_of_a_lake_on_s3_is_heard_and_can_be_asked_again(
    cluster: None, s3: S3Server, recipe: Recipe, tmp_path: Path
):
    run(recipe)
    lake, url = "s3://report/lake", s3.environment["AWS_ENDPOINT_URL"]
    page = tmp_path / "page.html"
    done = phonolake("report", lake, "--endpoint-url", url, "--out", page, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    [totals] = facts["figures"]["totals"]["rows"]
    assert (totals["recordings"], totals["failed_recordings"]) == (3, 1)
    assert facts["figures"]["nights"]["rows"][0]["ok"] == 3
    text = page.read_text()
    assert text.count("data:image/png;base64,") == len(facts["clips"]) > 0
    assert text.count("data:audio/ogg;base64,") == len(facts["clips"])
    program, *arguments = shlex.split(facts["figures"]["runs"]["command"])
    assert program == "phonolake"
    again = phonolake(*arguments, "--json", without=ENDPOINT)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == facts["figures"]["runs"]["rows"]


def test_the_doctor_tells_a_bucket_that_is_not_there_and_makes_none(s3: S3Server, recipe: Recipe):
    lost = recipe.model_copy(
        update={
            "source": recipe.source.model_copy(update={"uri": "s3://no-such-bucket/x/"}),
            "lake": recipe.lake.model_copy(update={"uri": "s3://no-such-bucket/lake"}),
        }
    )
    source, lake = store_checks(lost)
    assert (source.state, lake.state) == ("failed", "failed")
    assert "does not exist" in source.said
    assert "no-such-bucket" in lake.said
    assert not s3.filesystem().exists("no-such-bucket")
