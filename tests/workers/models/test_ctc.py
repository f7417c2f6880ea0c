"""CTC: the library's own reading of the frames, with times; and known texts where they are said."""

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from schemas import wire
from tests.tiny_ctc_model import LETTERS, write_ctc
from tests.tiny_speech_models import CPU, save
from workers.actors import PoolMember, PoolSpec
from workers.models.alignment import Vocabulary, align
from workers.models.ctc import CtcModel
from workers.models.model import Clip, Loading, ModelStage
from workers.weights import ModelError, resolve

RATE = 16_000
SETTINGS = {"language": "en", "task": "transcribe", "pack": False, "align_with": None, "options": {}}
GUESS = ModelStage("transcripts/ctc", "transcripts", SETTINGS)
REFERENCE = ModelStage("transcripts/reference", "transcripts", SETTINGS | {"align_with": "ctc"})
EMBED = ModelStage("embeddings/ctc", "embeddings", {"layer": 2, "pooling": "mean", "options": {}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ctc(tmp_path_factory.mktemp("ctc"))


@pytest.fixture(scope="module")
def waves():
    numbers = np.random.default_rng(3)
    return [numbers.normal(0, 0.1, size).astype(np.float32) for size in (4_000, 30_000, 11_111, 400, 52_000)]


def load(folder, *stages, **settings):
    stages = tuple(ModelStage(one.id, one.table, one.settings | settings) for one in stages)
    return CtcModel.load(Loading(folder, CPU, torch.float32, stages, 16, 60.0))


def reference_logits(folder, wave):
    network = transformers.Wav2Vec2ForCTC.from_pretrained(folder).eval()
    level = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
    with torch.inference_mode():
        return network(torch.from_numpy(level)[None].float()).logits[0]


def test_texts_are_those_of_the_library_on_each_clip_alone(folder, waves):
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(folder)
    model = load(folder, GUESS)
    results = model.run([Clip(wave) for wave in waves])
    assert any(result.transcript["text"] for result in results)
    for wave, result in zip(waves, results, strict=True):
        logits = reference_logits(folder, wave)
        [row] = model.rows(result, GUESS)
        assert row["text"] == tokenizer.decode(logits.argmax(-1)).strip()
        assert [word["word"] for word in row["words"]] == row["text"].split()
        spoken = logits.argmax(-1) != 0
        expected = logits.log_softmax(-1).amax(-1)[spoken].mean() if spoken.any() else None
        assert row["avg_logprob"] == (None if expected is None else pytest.approx(float(expected), abs=1e-4))


def test_words_lie_in_the_recording_in_their_order(folder, waves):
    model = load(folder, GUESS)
    clips = [Clip(wave, start_seconds=100.0) for wave in waves]
    for clip, result in zip(clips, model.run(clips), strict=True):
        times = [edge for word in result.transcript["words"] for edge in (word["start"], word["end"])]
        assert times == sorted(times)
        assert all(100.0 <= time <= 100.0 + len(clip.waveform) / RATE for time in times)
        assert all(0 < word["probability"] <= 1 for word in result.transcript["words"])


def test_a_long_clip_is_read_in_windows_as_in_one_piece(tmp_path):
    write_ctc(tmp_path, "wav2vec2 with layer norms")
    tensors = load_file(tmp_path / "model.safetensors")
    for name in tensors:
        if "attention.out_proj" in name:  # what is left hears 1.3 s to either side, less than the windows' margins
            tensors[name] = torch.zeros_like(tensors[name])
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    wave = np.random.default_rng(4).normal(0, 0.1, 50 * RATE).astype(np.float32)
    whole = load(tmp_path, GUESS).run([Clip(wave)])[0].transcript
    pieces = load(tmp_path, GUESS, options={"max_window_seconds": 20.0}).run([Clip(wave)])[0].transcript
    assert whole["text"] == pieces["text"]
    assert len(whole["text"]) > 200
    assert [word["start"] for word in whole["words"]] == [word["start"] for word in pieces["words"]]
    assert whole["avg_logprob"] == pytest.approx(pieces["avg_logprob"], abs=1e-5)


def spoken(text, frames_a_letter=3, seed=0):
    """Log-probabilities (frames, labels) of a text that is said letter by letter, and where each word lies."""
    labels = {letter: number for number, letter in enumerate(LETTERS)}
    path, spans = [0, 0], []
    for word in text.split():
        if spans:
            path += [labels["|"]] * 2
        first = len(path)
        for letter in word:
            path += [labels[letter]] * frames_a_letter + [0]
        spans.append((first, len(path) - 1))
    path += [0, 0]
    logits = np.random.default_rng(seed).normal(0, 0.5, (len(path), len(LETTERS)))
    logits[np.arange(len(path)), path] += 8
    return torch.from_numpy(logits).log_softmax(-1).float().numpy(), spans


VOCABULARY = Vocabulary({letter: number for number, letter in enumerate(LETTERS) if len(letter) == 1}, 0, 4)


def test_a_known_text_is_found_where_it_is_said():
    log_probs, spans = spoken("CALL ME LATER")
    found = align(log_probs, "Call me, later!", VOCABULARY)
    assert [word.word for word in found] == ["Call", "me,", "later!"]
    assert [(word.first, word.end) for word in found] == spans
    assert all(word.probability > 0.9 for word in found)


def test_another_text_is_aligned_too_and_looks_it():
    log_probs, _ = spoken("CALL ME LATER")
    assert np.mean([word.probability for word in align(log_probs, "WRONG TEXT", VOCABULARY)]) < 0.5


def test_what_has_no_letters_has_no_time():
    log_probs, spans = spoken("CALL ME")
    found = align(log_probs, "-- Call 42 me é", VOCABULARY)
    assert [word.first for word in found] == [None, spans[0][0], None, spans[1][0], found[-1].first]
    assert found[-1].first is not None  # an E without its accent
    assert align(log_probs, "1984", VOCABULARY)[0].probability is None


def test_a_text_longer_than_the_sound_is_refused():
    log_probs, _ = spoken("NO")
    with pytest.raises(ValueError, match=r"40 letters, more than fit in .* frames"):
        align(log_probs, "A" * 40, VOCABULARY)


def test_one_pass_gives_transcripts_references_and_embeddings(folder, waves):
    name = str(folder)
    found = resolve(name)
    assert found.kind == "ctc"
    stages = [ModelStage(f"transcripts/{name}", "transcripts", SETTINGS), REFERENCE, EMBED]
    member = PoolMember(PoolSpec(name, found.kind, found.digest, tuple(stages), threads=1, batch_size=4))
    texts = ["HELLO", "A" * 300, None]
    rows = [
        {
            "recording_id": "r",
            "uri": "/r",
            "stages": [stage.id for stage in stages],
            "segment_index": index,
            "start_seconds": 10.0,
            "reference": text,
            "pcm": (wave * 32767).astype(np.int16).tobytes(),
        }
        for index, (wave, text) in enumerate(zip(waves, texts, strict=False))
    ]
    table = member(pa.Table.from_pylist(rows, wire.WIRE))
    guessed, aligned, embedded = (table[wire.rows_column(stage.id)].to_pylist() for stage in stages)
    assert [row["model"] for [row] in guessed] == [name] * 3
    assert [row["dim"] for [row] in embedded] == [32] * 3
    assert (aligned[0][0]["model"], aligned[0][0]["text"]) == ("reference", "HELLO")
    assert aligned[0][0]["words"][0]["start"] >= 10.0
    assert aligned[1] == []
    assert "more than fit" in table[wire.error_column(REFERENCE.id)].to_pylist()[1]["message"]
    assert (aligned[2][0]["text"], aligned[2][0]["flags"]) == ("", ["no_reference"])


@pytest.mark.parametrize("wave", [np.zeros(0, np.float32), np.zeros(1, np.float32), np.zeros(RATE, np.float32)])
def test_nothing_to_hear_is_a_defined_result(folder, wave):
    model = load(folder, GUESS, REFERENCE)
    [result] = model.run([Clip(wave)])
    [row] = model.rows(result, GUESS)
    assert isinstance(row["text"], str)
    assert row["avg_logprob"] is None or np.isfinite(row["avg_logprob"])


def test_a_checkpoint_without_its_tokenizer_is_refused(tmp_path):
    save(tmp_path, "wav2vec2 with group norm", "ForCTC")
    found = resolve(str(tmp_path))
    with pytest.raises(ModelError, match="cannot be loaded"):
        PoolMember(PoolSpec(str(tmp_path), found.kind, found.digest, (GUESS,), threads=1, batch_size=4))
