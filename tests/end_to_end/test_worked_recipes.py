"""The recipes of docs/recipes run as shipped, at small scale, on real speech; and what their pages say holds there."""

import json

import pytest
import typer
from pyiceberg.catalog import load_catalog

from pipelines.cli import COMMANDS, app
from tests.end_to_end.conftest import S3Server
from tests.end_to_end.test_nights import asked, phonolake, sound
from tests.tiny_sound_models import write_clap
from tests.tiny_speech_models import save
from tests.worked_recipes import (
    RECIPES,
    commands,
    overrides,
    questions,
    write_calls,
    write_episodes,
    write_videos,
)

BUCKET = "worked-videos"
EMOTIONS = dict(enumerate(("neu", "hap", "ang", "sad")))


def ran(name: str, source: str, lake: str, models: dict[str, str]) -> str:
    """Run a shipped recipe; return its lake."""
    done = phonolake("run", RECIPES / f"{name}.yaml", *overrides(name, source, lake, models))
    assert done.returncode == 0, done.stderr
    sound(lake)
    return lake


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clap(tmp_path_factory.mktemp("models") / "clap"))


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> str:
    folder = tmp_path_factory.mktemp("calls")
    labels = {"id2label": EMOTIONS, "label2id": {label: number for number, label in EMOTIONS.items()}}
    head = save(folder / "emotion", "wav2vec2 with group norm", "ForSequenceClassification", num_labels=4, **labels)
    models = {"superb/wav2vec2-base-superb-er": str(head), "openai/whisper-large-v3-turbo": "whisper-tiny.en"}
    return ran("call_centre", str(write_calls(folder)), str(folder / "lake"), models)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, s3: S3Server, cluster: None, clap: str) -> str:
    files = s3.filesystem()
    files.mkdir(BUCKET)
    for name, path in write_videos(tmp_path_factory.mktemp("videos") / "2026").items():
        files.put_file(str(path), f"{BUCKET}/2026/{name}.mp4")
    files.pipe_file(f"{BUCKET}/2026/index.html", b"not a video")
    models = {"laion/clap-htsat-unfused": clap, "openai/whisper-large-v3": "whisper-base"}
    return ran("short_videos", f"s3://{BUCKET}/2026/", f"s3://{BUCKET}/lake", models)


@pytest.fixture(scope="module")
def podcasts(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> str:
    folder = tmp_path_factory.mktemp("podcasts")
    models = {"openai/whisper-large-v3-turbo": "whisper-tiny.en"}
    return ran("podcasts", str(write_episodes(folder)), str(folder / "lake"), models)


def answers(name: str, lake: str) -> list[list[dict[str, object]]]:
    """Ask every question of a page; each has an answer, in the columns that the page shows."""
    found = []
    for question in questions(name):
        rows = asked(lake, question.sql)
        assert rows, question.sql
        assert list(rows[0]) == question.columns
        found.append(rows)
    assert len(found) >= 3
    return found


def test_a_call_centres_sides_are_told_apart(calls: str) -> None:
    shares, said, silences, moods = answers("call_centre", calls)
    assert [row["call"] for row in shares] == ["c-001", "c-002", "c-003"]
    assert all(row["agent_s"] > 3 and row["caller_s"] > 3 for row in shares)
    assert {(row["call"], row["who"]) for row in said} >= {("c-002", "caller"), ("c-003", "caller")}
    assert all("try again" in str(row["text"]).lower() for row in said)
    assert {row["call"] for row in silences} == {"c-001", "c-002", "c-003"}
    assert {row["who"] for row in moods} == {"agent", "caller"}
    [row] = asked(calls, "SELECT count(DISTINCT label) labels, count(DISTINCT segment_id) tagged FROM tags")
    assert row["labels"] == 4
    assert asked(calls, "SELECT count(*) n FROM segments WHERE channel IS NULL") == [{"n": 0}]


def test_short_videos_say_what_is_heard_and_what_is_said(videos: str) -> None:
    heard, said, again = answers("short_videos", videos)
    loudest = {row["video"]: (row["speech"] or 0) > (row["music"] or 0) for row in heard}
    assert loudest["queue.mp4"]
    assert loudest["urgent.mp4"]
    assert not loudest["dance.mp4"]
    assert {row["video"]: row["language"] for row in said}["queue.mp4"] == "es"
    assert "representatives" in " ".join(str(row["text"]) for row in said)  # what was said is `representantes`
    assert {again[0]["video"], again[0]["like"]} == {"dance.mp4", "dance-again.mp4"}
    assert asked(videos, "SELECT count(*) n FROM failures") == [{"n": 0}]
    [row] = asked(videos, "SELECT (SELECT count(*) FROM clips) c, (SELECT count(*) FROM segments) s")
    assert row["c"] == row["s"] >= 5


def test_what_was_posted_again_is_the_most_similar_by_its_segment(videos: str, clap: str) -> None:
    sql = "SELECT segment_id FROM segments JOIN recordings USING (recording_id) WHERE uri LIKE '%/dance.mp4'"
    [row] = asked(videos, sql)
    done = phonolake("similar", videos, row["segment_id"], "--limit", 1, "--json")
    assert json.loads(done.stdout)["matches"][0]["uri"].endswith("dance-again.mp4")
    assert phonolake("search", videos, "a crowd chanting", "--limit", 3).returncode == 0


def test_podcasts_have_shows_words_and_licences(podcasts: str) -> None:
    shows, found, licences, doubts = answers("podcasts", podcasts)
    assert {row["podcast"]: row["episodes"] for row in shows} == {"The PBX Hour": 2, "Front Desk": 1}
    assert all(60 < row["words_per_minute"] < 300 for row in shows)
    assert {row["episode"] for row in found} == {"desk-1"}
    assert {row["licence"] for row in licences} == {"CC BY 4.0", "all rights reserved"}
    assert {row["podcast"] for row in doubts} == {"The PBX Hour", "Front Desk"}
    lengths = asked(podcasts, "SELECT max(end_seconds - start_seconds) AS longest FROM segments")
    assert lengths[0]["longest"] <= 30
    catalog = load_catalog("phonolake", uri=f"sqlite:///{podcasts}-catalog.db")
    assert len(catalog.load_table("podcasts.recordings").scan().to_arrow()) == 3


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_command_and_option_that_a_page_shows_is_there(name: str) -> None:
    known = {command.__name__ for command in COMMANDS}
    options = {
        sub: {option for param in command.params for option in param.opts}
        for sub, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
    }
    shown = list(commands(name))
    assert {"run", "plan"} <= {command for command, *_ in shown}
    for command, *arguments in shown:
        assert command in known
        given = {one for one in arguments if one.startswith("--")}
        assert given <= options[command]


def test_every_recipe_has_its_page() -> None:
    recipes, pages = ({path.stem for path in RECIPES.glob(f"*.{kind}")} for kind in ("yaml", "md"))
    assert recipes == pages - {"README"}
