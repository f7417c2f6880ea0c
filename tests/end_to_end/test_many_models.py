"""Ten models over real speech in one run: the sound is read once, every table is whole, and one bad model stops it."""

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.end_to_end.test_command_line import write
from tests.end_to_end.test_nights import asked, phonolake, sound
from tests.real_corpus import english_prompts
from tests.tiny_ctc_model import write_ctc
from tests.tiny_sound_models import write_ast, write_clap
from tests.tiny_speech_models import save

CLIPS = 40
RATE = 16_000
ODD = {
    "silence": np.zeros(RATE),
    "one-sample": np.full(1, 0.5),
    "clipped-noise": np.clip(np.random.default_rng(0).normal(0, 3, 2 * RATE), -1, 1),
    "tone": 0.9 * np.sin(np.arange(30 * RATE) * 2 * np.pi * 440 / RATE),
}
"""Sound that is no speech, and hardly sound."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Checkpoints of random weights, as small as their families allow."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "hubert": str(save(folder / "hubert", "hubert with group norm")),
        "emotion": str(save(folder / "emotion", "wav2vec2 with layer norms", "ForSequenceClassification")),
        "speaker": str(save(folder / "speaker", "wavlm with layer norms", "ForXVector")),
        "ctc": str(write_ctc(folder / "ctc")),
        "ast": str(write_ast(folder / "ast")),
        "clap": str(write_clap(folder / "clap")),
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of real prompts with their texts, and of sound without any."""
    folder = tmp_path_factory.mktemp("prompts")
    with open(english_prompts() / "transcripts.csv", newline="") as file:
        spoken = [row for row in csv.DictReader(file) if "[" not in row["text"]]
    rows = [
        {"path": str(english_prompts() / row["path"]), "text": row["text"]}
        for row in spoken[:: len(spoken) // CLIPS][:CLIPS]
    ]
    for name, samples in ODD.items():
        soundfile.write(folder / f"{name}.wav", samples, RATE)
        rows.append({"path": f"{name}.wav", "text": ""})
    with open(folder / "manifest.csv", "w", newline="") as file:
        out = csv.DictWriter(file, ["path", "text"])
        out.writeheader()
        out.writerows(rows)
    return folder


def recipe(folder: Path, corpus: Path, models: Mapping[str, str]) -> Path:
    content = {
        "corpus": "prompts",
        "source": {"manifest": str(corpus / "manifest.csv"), "allow": ["outside"]},
        "lake": {"uri": "lake"},
        "segments": {"by": "whole", "max_seconds": 120},
        "spectrograms": [{"kind": "log_mel"}],
        "embeddings": [
            {"model": "yamnet", "pooling": "frames"},
            {"model": "ge2e"},
            {"model": models["hubert"], "layer": {1: 0.5, 2: 0.5}, "pooling": "mean_std"},
            {"model": models["speaker"]},
            {"model": models["clap"]},
            {"model": models["ctc"], "layer": 2},
        ],
        "tags": [{"model": "yamnet", "top_k": 3}, {"model": models["ast"]}, {"model": models["emotion"]}],
        "transcripts": [
            {"model": "faster-whisper-tiny.en", "words": True},
            {"model": models["ctc"]},
            {"model": "reference", "align_with": models["ctc"]},
        ],
        "enhance": {"model": "spectral-gate", "tables": ["tags"]},
    }
    return write(folder, content)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, cluster: None, corpus: Path, models: Mapping[str, str]) -> Path:
    """A lake that all models together have filled."""
    folder = tmp_path_factory.mktemp("many")
    done = phonolake("run", recipe(folder, corpus, models))
    assert done.returncode == 0, done.stderr
    return folder / "lake"


def test_every_model_has_its_rows_of_every_segment(lake: Path) -> None:
    sound(lake)
    segments = CLIPS + len(ODD)
    assert asked(lake, "SELECT count(*) n FROM segments") == [{"n": segments}]
    failed = asked(lake, "SELECT DISTINCT regexp_extract(uri, '[^/]*$') clip, stage, message FROM failures")
    assert {row["stage"] for row in failed} <= {"transcripts/reference"}  # a text that random letters cannot fit
    for table, count in (("embeddings", 6), ("transcripts", 3)):
        sql = f"SELECT model, count(DISTINCT segment_id) n FROM {table} GROUP BY model"
        found = {row["model"]: row["n"] for row in asked(lake, sql)}
        assert len(found) == count
        assert found.pop("reference", segments) == segments - len(failed)
        assert set(found.values()) == {segments}
    sql = "SELECT model, count(*) n, count(DISTINCT segment_id) s FROM tags GROUP BY model"
    assert {row["s"] for row in asked(lake, sql)} == {segments}
    shapes = "SELECT * FROM embeddings WHERE len(vector) <> dim * coalesce(n_frames, 1) OR (pooling = 'frames') "
    assert asked(lake, f"SELECT count(*) n FROM ({shapes} <> (n_frames IS NOT NULL))") == [{"n": 0}]
    odd = "SELECT count(*) n FROM embeddings WHERE list_bool_or([NOT isfinite(x) FOR x IN vector])"
    assert asked(lake, odd) == [{"n": 0}]


def test_words_and_references_lie_in_their_recordings(lake: Path) -> None:
    sql = (
        "SELECT t.model, t.text, r.metadata['text'] said, r.decoded_seconds AS length, t.words, t.flags "
        "FROM transcripts t JOIN recordings r USING (recording_id)"
    )
    rows = asked(lake, sql)
    aligned = [row for row in rows if row["model"] == "reference"]
    assert all((row["text"] or "") == (row["said"] or "") for row in aligned)
    assert sum(row["flags"] == ["no_reference"] for row in aligned) == len(ODD)
    for row in rows:
        words = json.loads(row["words"]) if isinstance(row["words"], str) else row["words"]
        times = [time for word in words or () for time in (word["start"], word["end"]) if time is not None]
        assert times == sorted(times)
        assert all(0 <= time <= row["length"] + 0.05 for time in times)  # type: ignore[operator]
    heard = [row for row in rows if row["model"] == "faster-whisper-tiny.en" and row["said"]]
    assert sum(str(row["text"]).strip() != "" for row in heard) > 0.9 * len(heard)


def test_a_model_that_cannot_be_loaded_stops_the_run_before_audio_is_read(
    tmp_path: Path, cluster: None, corpus: Path, models: Mapping[str, str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(models["hubert"], broken)
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    lake, path = tmp_path / "lake", recipe(tmp_path, corpus, {**models, "hubert": str(broken)})
    done = phonolake("run", path, "--set", "tags=[]", "--set", "transcripts=[]", "--set", "enhance=null")
    assert done.returncode == 1
    assert f"stopped: model {broken} cannot be loaded" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not list((lake / "staging").rglob("*.parquet"))


def test_a_reference_needs_whole_recordings_and_a_model_that_reads_letters(
    tmp_path: Path, corpus: Path, models: Mapping[str, str]
) -> None:
    path = recipe(tmp_path, corpus, models)
    cut = phonolake("plan", path, "--set", "segments={by: speech}")
    assert cut.returncode == 2
    assert "segments.by: whole" in cut.stderr
    misspelt = f"transcripts=[{{model: reference, align_with: {models['ctc']}, text_column: txet}}]"
    none = phonolake("plan", path, "--set", misspelt)
    assert none.returncode == 2
    assert "text_column is 'txet', and no recording" in none.stderr
    assert "they have text" in none.stderr
    other = phonolake("plan", path, "--set", f"transcripts=[{{model: reference, align_with: {models['hubert']}}}]")
    assert other.returncode == 2
    assert "is a speech model; transcripts come from" in other.stderr
