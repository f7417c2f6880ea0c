"""A run with noise reduction: what hears it changes, what does not stays, and neither signal is written."""

import shutil
from pathlib import Path

import pytest

from tests.end_to_end.test_command_line import DEMO, write
from tests.end_to_end.test_nights import asked, phonolake, sound

NAMES = ("invalid.wav", "tt-weasels.wav", "cannot-complete-as-dialed.wav")
ENHANCE = "enhance={model: spectral-gate, tables: [spectrograms]}"


@pytest.fixture
def recipe(tmp_path: Path, cluster: None) -> Path:
    (tmp_path / "clips").mkdir()
    for name in NAMES:
        shutil.copy(DEMO / "en" / name, tmp_path / "clips" / name)
    content = {"corpus": "clips", "source": {"uri": "clips/"}, "lake": {"uri": "lake"}, "segments": {"by": "whole"}}
    return write(tmp_path, {**content, "spectrograms": [{"kind": "log_mel"}], "tags": [{"model": "yamnet"}]})


def test_spectrograms_are_of_the_enhanced_signal_and_tags_of_the_raw_one(recipe: Path) -> None:
    plain, gated = recipe.parent / "lake", recipe.parent / "gated"
    assert phonolake("run", recipe).returncode == 0
    done = phonolake("run", recipe, "--set", "lake.uri=gated", "--set", ENHANCE)
    assert done.returncode == 0, done.stderr
    for lake in (plain, gated):
        assert asked(lake, "SELECT * FROM failures") == []
        sound(lake)

    tags = "SELECT recording_id, segment_id, label, score FROM tags ORDER BY ALL"
    assert len(asked(plain, tags)) == 30
    assert asked(plain, tags) == asked(gated, tags)
    mean = "SELECT recording_id, n_frames, n_bins, list_avg(values) mean FROM spectrograms ORDER BY recording_id"
    for raw, enhanced in zip(asked(plain, mean), asked(gated, mean), strict=True):
        assert [raw[name] for name in ("recording_id", "n_frames", "n_bins")] == [
            enhanced[name] for name in ("recording_id", "n_frames", "n_bins")
        ]
        assert enhanced["mean"] < raw["mean"]  # type: ignore[operator]
    names = asked(gated, "SELECT column_name FROM (DESCRIBE segments) UNION SELECT column_name FROM (DESCRIBE tags)")
    assert not {"pcm", "enhanced", "enhance_problem"} & {str(row["column_name"]) for row in names}


def test_adding_noise_reduction_computes_only_what_hears_it(recipe: Path) -> None:
    lake = recipe.parent / "lake"
    assert phonolake("run", recipe).returncode == 0
    done = phonolake("run", recipe, "--set", ENHANCE)
    assert done.returncode == 0, done.stderr
    (counts,) = asked(
        lake,
        "SELECT (SELECT count(*) FROM recordings) r, (SELECT count(*) FROM tags) t, "
        "(SELECT count(*) FROM spectrograms) s, (SELECT count(*) FROM current_spectrograms) c",
    )
    assert counts == {"r": 3, "t": 30, "s": 6, "c": 3}
    sound(lake)
    refused = phonolake("run", recipe, "--set", "enhance={model: rnnoise, tables: [tags]}")
    assert refused.returncode == 2
    assert "known are deepfilternet, spectral-gate" in refused.stderr
