"""The quickstart, as `make demo` runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.lake import open_lake
from pipelines.store import Store


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    lake = tmp_path_factory.mktemp("demo") / "demo-lake"
    command = [sys.executable, "-m", "pipelines", "demo", "--lake", str(lake)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, lake


def test_the_demo_shows_what_a_newcomer_wants_to_see(shown: tuple[str, Path]) -> None:
    text, _ = shown
    for heading in ("READ", "TABLES", "TRANSCRIPTS", "TOP TAGS", "FAILURES", "NEXT"):
        assert f"\n{heading}" in text
    for reason in (
        "empty.wav: the object has 0 bytes",
        "notes.wav: no known audio",
        "truncated.mp3, 4.6 s decode of the 7.8",
    ):
        assert reason in text


def test_everything_printed_is_in_the_lake(shown: tuple[str, Path]) -> None:
    text, lake = shown
    connection = open_lake(Store(str(lake)))
    for table in ("recordings", "segments", "spectrograms", "embeddings", "transcripts", "tags", "failures"):
        [(rows,)] = connection.sql(f"SELECT count(*) FROM {table}").fetchall()
        assert rows > 0
        assert any(line.split() == [table, str(rows), "rows"] for line in text.splitlines())


def test_every_format_of_the_demo_is_heard(shown: tuple[str, Path]) -> None:
    connection = open_lake(Store(str(shown[1])))
    found = {row[0] for row in connection.sql("SELECT DISTINCT container || '/' || codec FROM recordings").fetchall()}
    assert found == {"wav/pcm_16", "flac/pcm_16", "mp3/mp3", "ogg/vorbis", "ogg/opus", "mp4/aac"}


def test_the_transcripts_are_right_and_know_their_language(shown: tuple[str, Path]) -> None:
    from pipelines.demo.show import word_error_rate

    connection = open_lake(Store(str(shown[1])))
    assert word_error_rate(connection)["english"] < 0.08
    sql = (
        "SELECT metadata['language'] = language, count(*) FROM recordings JOIN transcripts USING (recording_id) "
        "WHERE metadata['text'] <> '' GROUP BY ALL"
    )
    languages = dict(connection.sql(sql).fetchall())
    assert languages[True] >= 22
    assert languages.get(False, 0) <= 2  # one Spanish clip is heard as Catalan, with a probability of 0.3


def test_the_demo_refuses_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not delete me")
    command = [sys.executable, "-m", "pipelines", "demo", "--lake", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "holds other files" in done.stderr
    assert (tmp_path / "thesis.txt").exists()


def test_the_plan_of_the_demo_is_json_for_machines() -> None:
    recipe = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "recipe.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "plan", str(recipe), "--set", "lake.uri=/tmp/no-lake-yet", "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert json.loads(done.stdout)["listed"] == 29
