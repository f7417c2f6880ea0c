"""Clips added to a lake that stands, the lake as Hugging Face's `datasets` opens it, and its card."""

import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr

from tests.end_to_end.test_command_line import DEMO, write
from tests.end_to_end.test_nights import asked, phonolake, sound
from workers.samples import to_int16

RATE = 16_000
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
