"""Clips added to a lake that stands, the lake as Hugging Face's `datasets` opens it, and its card."""

import io
import json
from pathlib import Path
from typing import Any

import datasets
import mlcroissant
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr
import yaml

from tests.end_to_end.test_command_line import DEMO, write
from tests.end_to_end.test_nights import asked, phonolake, sound
from workers.samples import to_int16

RATE = 16_000
RDFLIB = pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")
PANDAS = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")
PROMPTS = ("invalid", "vm-goodbye", "tt-weasels", "cannot-complete-as-dialed", "privacy-unident")
SEGMENT_SECONDS = 4


def spoken(names: tuple[str, ...]) -> np.ndarray:
    """Real prompts, one after the other, at 16 kHz."""
    parts = [soundfile.read(DEMO / "en" / f"{name}.wav", dtype="float32") for name in names]
    return to_int16(np.concatenate([soxr.resample(samples, rate, RATE) for samples, rate in parts]))


@pytest.fixture(scope="module")
def sides() -> np.ndarray:
    """Two people at once, shape (n, 2)."""
    left, right = spoken(PROMPTS), spoken(PROMPTS[::-1])
    return np.stack([left, right], axis=1)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, cluster: None, sides: np.ndarray) -> Path:
    """A lake of two recordings whose samples are known, and one that is no audio; its clips come in a second run."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "in").mkdir()
    soundfile.write(folder / "in" / "both.wav", sides, RATE, subtype="PCM_16")
    soundfile.write(folder / "in" / "one.flac", sides[:, 0], RATE, subtype="PCM_16")
    (folder / "in" / "notes.wav").write_text("no sound")
    (folder / "in.csv").write_text(
        "path,licence,language\nin/both.wav,CC BY-SA 3.0,en\nin/one.flac,CC BY-SA 3.0,en\nin/notes.wav,,en\n"
    )
    content: dict[str, Any] = {"corpus": "clips", "source": {"manifest": "in.csv"}, "lake": {"uri": "lake"}}
    content |= {"audio": {"channels": "each"}, "segments": {"by": "windows", "max_seconds": SEGMENT_SECONDS}}
    path = write(folder, content | {"tags": [{"model": "yamnet", "top_k": 2}]})
    done = phonolake("run", path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"]["clips"] == 0
    done = phonolake("run", path, "--set", "clips={format: flac}", "--json")
    assert done.returncode == 0, done.stderr
    (folder / "second.json").write_text(done.stdout)
    return path


@pytest.fixture(scope="module")
def lake(recipe: Path) -> Path:
    return recipe.parent / "lake"


def test_clips_are_computed_alone_when_they_are_added_later(recipe: Path, lake: Path) -> None:
    second = json.loads((recipe.parent / "second.json").read_text())
    rows = {table: count for table, count in second["rows"].items() if count}
    [(segments,)] = [row.values() for row in asked(lake, "SELECT count(*) n FROM segments")]
    assert rows == {"clips": segments}
    assert second["recordings"] == 2
    sound(lake)
    again = phonolake("run", recipe, "--set", "clips={format: flac}")
    assert "nothing new" in again.stdout


def test_datasets_sees_audio_and_every_clip_is_its_segment_to_the_bit(lake: Path, sides: np.ndarray) -> None:
    files = str(lake / "data" / "clips" / "**" / "*.parquet")
    found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(lake.parent / "cache"))
    assert found.features["audio"] == datasets.Audio()
    clips = {row["segment_id"]: row for row in found.cast_column("audio", datasets.Audio(decode=False))}
    sql = (
        "SELECT s.segment_id, start_seconds, end_seconds, channel, uri FROM current_segments s JOIN recordings r "
        "ON r.recording_id = s.recording_id"
    )
    segments: list[dict[str, Any]] = asked(lake, sql)
    assert len(segments) == len(clips) > 10
    for row in segments:
        clip = clips[row["segment_id"]]
        column = 0 if row["uri"].endswith("one.flac") else row["channel"]
        span = slice(round(row["start_seconds"] * RATE), round(row["end_seconds"] * RATE))
        samples, rate = soundfile.read(io.BytesIO(clip["audio"]["bytes"]), dtype="int16")
        np.testing.assert_array_equal(samples, sides[span, column])
        assert (rate, clip["sampling_rate"], clip["seconds"]) == (RATE, RATE, len(samples) / RATE)
        assert clip["audio"]["path"] == f"{row['segment_id']}.flac"


def test_every_file_of_clips_says_what_it_is_to_hugging_face_and_whose_it_is(lake: Path) -> None:
    for file in (lake / "data" / "clips").rglob("*.parquet"):
        footer = pq.read_metadata(file).metadata
        assert json.loads(footer[b"huggingface"])["info"]["features"]["audio"] == {"_type": "Audio"}
        assert footer[b"phonolake.corpus"] == b"clips"


@pytest.fixture(scope="module")
def described(lake: Path) -> Path:
    """The lake with its card in its root."""
    done = phonolake("card", lake, "--in-lake", "--url", "https://example.org/clips", "--json")
    assert done.returncode == 0, done.stderr
    assert [Path(name).name for name in json.loads(done.stdout)["files"]] == ["README.md", "croissant.json"]
    return lake


def test_datasets_loads_every_table_by_the_cards_own_configurations(described: Path) -> None:
    cache = str(described.parent / "cache")
    tables = datasets.get_dataset_config_names(str(described))
    assert tables == ["recordings", "segments", "tags", "clips", "failures"]
    for table in tables:
        found = datasets.load_dataset(str(described), table, split="train", cache_dir=cache)
        [row] = asked(described, f"SELECT count(*) n FROM {table}")
        assert found.num_rows == row["n"]
        assert "metadata" not in found.column_names
        assert found.features.get("audio") == (datasets.Audio() if table == "clips" else None)


def test_the_card_counts_what_the_lake_holds(described: Path) -> None:
    text = (described / "README.md").read_text()
    head, page = yaml.safe_load(text.split("---\n")[1]), text.split("---\n", 2)[2]
    assert head["license"] == ["cc-by-sa-3.0"]
    assert head["size_categories"] == ["n<1K"]
    assert head["task_categories"] == ["audio-classification"]
    [row] = asked(described, "SELECT count(*) n FROM segments")
    assert f"| segments | {row['n']} |" in page
    assert "| CC BY-SA 3.0 | 2 | 0.0" in page
    assert "| decode | not\\_audio | 1 | The first bytes belong to no audio or video format we know. |" in page
    assert "Run 00002" in page
    assert "format: flac" in page


@RDFLIB
@PANDAS
def test_mlcroissant_finds_no_error_and_reads_the_records(described: Path) -> None:
    found = mlcroissant.Dataset(jsonld=described / "croissant.json")
    assert found.metadata.issues.errors == set()
    assert found.metadata.url == "https://example.org/clips"
    assert [records.id for records in found.metadata.record_sets][:3] == ["recordings", "segments", "tags"]
    rows = [row["tags/label"].decode() for row in found.records("tags")]
    assert sorted(rows) == sorted(row["label"] for row in asked(described, "SELECT label FROM tags"))
    for row in found.records("clips"):
        samples, _ = soundfile.read(io.BytesIO(row["clips/audio"]), dtype="int16")
        assert len(samples) == round(row["clips/seconds"] * RATE)
    for row in found.records("recordings"):
        parts = row["recordings/metadata"]
        entries = {part["recordings/metadata/key"]: part["recordings/metadata/value"] for part in parts}
        assert entries == {b"licence": b"CC BY-SA 3.0", b"language": b"en"}  # mlcroissant gives text as bytes


def test_a_card_goes_where_it_is_told_and_nowhere_else(described: Path, tmp_path: Path) -> None:
    before = sorted(described.rglob("*"))
    assert phonolake("card", described, "--out", tmp_path / "card").returncode == 0
    assert sorted(path.name for path in (tmp_path / "card").iterdir()) == ["README.md", "croissant.json"]
    assert phonolake("card", described).stdout == (tmp_path / "card" / "README.md").read_text() + "\n"
    assert phonolake("card", described, "--in-lake", "--out", tmp_path).returncode == 2
    assert phonolake("card", tmp_path).returncode == 2
    assert sorted(described.rglob("*")) == before
    sound(described)
