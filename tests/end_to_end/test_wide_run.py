"""A run at 48 kHz beside one at 16 kHz: the same segments, and models that say the same of them."""

import json
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.test_command_line import DEMO, write
from tests.end_to_end.test_nights import asked, phonolake, sound

NAMES = ("invalid.wav", "tt-weasels.wav", "priv-introsaved.opus")
WIDE = "audio.sample_rate=48000"


@pytest.fixture
def recipe(tmp_path: Path, cluster: None) -> Path:
    (tmp_path / "clips").mkdir()
    for name in NAMES:
        shutil.copy(DEMO / "en" / name, tmp_path / "clips" / name)
    content = {"corpus": "clips", "source": {"uri": "clips/"}, "lake": {"uri": "lake"}}
    return write(tmp_path, {**content, "spectrograms": [{"kind": "log_mel"}], "tags": [{"model": "yamnet"}]})


def test_a_run_at_48_khz_gives_the_segments_and_tags_of_one_at_16_khz(recipe: Path) -> None:
    narrow, wide = recipe.parent / "lake", recipe.parent / "wide"
    assert phonolake("run", recipe).returncode == 0
    done = phonolake("run", recipe, "--set", "lake.uri=wide", "--set", WIDE)
    assert done.returncode == 0, done.stderr
    for lake in (narrow, wide):
        assert asked(lake, "SELECT * FROM failures") == []
        sound(lake)

    segments = "SELECT segment_id, start_seconds, end_seconds, speech_ratio FROM segments ORDER BY segment_id"
    assert len(asked(narrow, segments)) == 3
    for one, other in zip(asked(narrow, segments), asked(wide, segments), strict=True):
        assert one["segment_id"] == other["segment_id"]
        assert [other["start_seconds"], other["end_seconds"]] == pytest.approx(
            [one["start_seconds"], one["end_seconds"]], abs=0.05
        )
    seconds = "SELECT recording_id, decoded_seconds, sample_rate FROM recordings ORDER BY recording_id"
    assert asked(narrow, seconds) == asked(wide, seconds)

    best = "SELECT segment_id, arg_max(label, score) label, max(score) score FROM tags GROUP BY 1 ORDER BY 1"
    for one, other in zip(asked(narrow, best), asked(wide, best), strict=True):
        assert one["label"] == other["label"]
        assert other["score"] == pytest.approx(one["score"], abs=0.02)
    frames = "SELECT n_bins, hop_seconds, n_frames FROM spectrograms ORDER BY segment_id"
    for one, other in zip(asked(narrow, frames), asked(wide, frames), strict=True):
        assert (other["n_bins"], other["hop_seconds"]) == (80, 0.01)
        assert abs(int(str(one["n_frames"])) - int(str(other["n_frames"]))) <= 10


def test_a_plan_forecasts_the_same_hours_and_refuses_whispers_spectrogram(recipe: Path) -> None:
    hours = [
        json.loads(phonolake("plan", recipe, "--json", *more).stdout)["estimated_hours"]
        for more in ((), ("--set", WIDE))
    ]
    assert hours[0] == hours[1] > 0
    refused = phonolake("run", recipe, "--set", WIDE, "--set", "spectrograms=[{kind: log_mel, preset: whisper}]")
    assert refused.returncode == 2
    assert "preset 'whisper' needs 16000 Hz, not 48000" in refused.stderr
