"""Whisper's guards: the pure rules, and that a refused window is decoded again, the same way in any company."""

import math

import numpy as np
import pytest
import torch
from whisper_samples import floats, heard, model, noise, read_clips, silence

from workers.models import whisper_guards
from workers.models.transcript import WindowText, join, surest
from workers.models.whisper import WhisperOptions
from workers.models.whisper_decoding import Sampling, draws
from workers.models.whisper_guards import (
    TEMPERATURES,
    has_loop,
    is_hallucination,
    joined_flags,
    needs_retry,
    sound_level,
    sound_span,
    window_flags,
)
from workers.models.whisper_reading import Reader

QUIET = -70.0  # dBFS
SPOKEN = -20.0


def window(**changes) -> WindowText:
    plain = {"language": "en", "language_probability": 1.0, "text": "Hello.", "logprob": -0.3, "tokens": 3}
    doubts = {"no_speech_probability": 0.1, "temperature": 0.0, "truncated": False, "level": SPOKEN}
    return WindowText(**{**plain, **doubts, **changes})


@pytest.mark.parametrize(
    ("text", "logprob", "no_speech", "again"),
    [
        ("Hello there.", -0.5, 0.1, False),
        ("Hello there.", -1.1, 0.1, True),
        ("Hello there.", -1.1, 0.7, False),  # silence: a warmer guess is no better
        ("Hello there.", -0.9, 0.7, False),
        ("and so on " * 40, -0.1, 0.1, True),
        ("and so on " * 40, -0.1, 0.7, True),  # sure of its text: no silence
        ("", -1.0, 0.0, False),
    ],
)
def test_a_window_is_decoded_again_by_the_official_rule(text, logprob, no_speech, again):
    assert needs_retry(text, logprob, no_speech) is again


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("no no no no", True),
        ("No, no. NO!", False),
        ("I am here, I am here. I am here I am here", True),
        ("one two three four five six " * 4, True),
        ("one two three four five six seven " * 4, False),
        ("well no no no yes no", False),
        ("哈哈哈哈", True),
        ("", False),
    ],
)
def test_a_phrase_four_times_in_a_row_is_a_loop(text, loops):
    assert has_loop(text) is loops


@pytest.mark.parametrize(
    ("text", "logprob", "no_speech", "level", "likely"),
    [
        ("Thank you for watching!", -0.2, 0.1, SPOKEN, False),  # people do say it
        ("Thank you for watching!", -0.2, 0.1, QUIET, True),
        ("Thank you for watching!", -0.8, 0.1, SPOKEN, True),
        ("Thank you for the call.", -0.8, 0.1, QUIET, False),
        ("Whatever it was.", -1.2, 0.7, SPOKEN, True),  # text of what the model calls silence
        ("Whatever it was.", -0.1, 0.1, -math.inf, True),
        ("", -1.2, 0.9, -math.inf, False),
    ],
)
def test_text_of_silence_and_notorious_phrases_are_likely_hallucinations(text, logprob, no_speech, level, likely):
    assert is_hallucination(text, logprob, no_speech, level) is likely


def test_doubts_of_any_window_are_those_of_the_clip_but_silence_must_be_everywhere():
    silent = window_flags("you", -1.5, 0.9, SPOKEN, truncated=False)
    spoken = window_flags("Hello.", -0.2, 0.1, SPOKEN, truncated=True)
    assert silent == {"low_confidence", "no_speech", "hallucination"}
    assert joined_flags([silent, spoken]) == ("hallucination", "low_confidence", "truncated")
    assert joined_flags([silent, silent]) == ("hallucination", "low_confidence", "no_speech")


def test_a_clip_of_two_windows_tells_the_highest_temperature():
    (first, second) = window(temperature=0.4), window(language_probability=0.5, text="Bye now.")
    joined = join([first, second], [0.0, 30.0])
    assert (joined.text, joined.temperature, joined.words) == ("Hello. Bye now.", 0.4, None)


def test_level_and_span_are_those_of_the_sound():
    sound = np.concatenate([silence(1), np.full(8_000, 0.1, np.float32), silence(0.5)])
    assert sound_level(sound) == pytest.approx(-20, abs=0.01)
    assert sound_span(sound) == (1.0, 1.5)
    assert sound_level(silence(1)) == sound_level(silence(0)) == -math.inf
    assert sound_span(silence(0)) == (0.0, 0.0)


def test_draws_hang_on_the_samples_and_the_attempt_alone():
    first, second = noise(16_000, 1), noise(16_000, 2)
    together = draws([first, second], 1, 10)
    assert together.shape == (2, 10)
    torch.testing.assert_close(together[1:], draws([second], 1, 10), rtol=0, atol=0)
    assert not torch.equal(together, draws([first, second], 2, 10))
    assert not torch.equal(together[0], together[1])


def test_sampling_follows_the_probabilities_and_never_takes_the_impossible():
    logits = torch.log(torch.tensor([0.0, 0.5, 0.0, 0.25, 0.25])).repeat(10_000, 1)
    sampling = Sampling(1.0, torch.linspace(0, 1 - 1e-12, 10_000, dtype=torch.float64)[:, None])
    tokens = sampling.choose(logits, torch.arange(10_000), 0)
    assert (torch.bincount(tokens, minlength=5) / 10_000).tolist() == pytest.approx([0, 0.5, 0, 0.25, 0.25], abs=1e-3)
    colder = Sampling(0.5, sampling.draws).choose(logits, torch.arange(10_000), 0)
    assert (colder == 1).float().mean() == pytest.approx(0.25 / (0.25 + 2 * 0.0625), abs=1e-3)


@pytest.fixture
def strict(monkeypatch):
    """Guards that refuse ordinary speech."""
    monkeypatch.setattr(whisper_guards, "LOGPROB_LIMIT", -0.1)
    monkeypatch.setattr(whisper_guards, "NO_SPEECH_LIMIT", 1.0)


def test_a_refused_window_is_decoded_again_the_same_way_alone_and_together(strict, monkeypatch):
    again, warmer = [], Reader.read_warmer
    monkeypatch.setattr(Reader, "read_warmer", lambda *given: again.append(len(given[1])) or warmer(*given))
    whisper = model("whisper-tiny.en", WhisperOptions(batch_size=3))
    clips = [*read_clips("en", 4), noise(32_000)]
    together = heard(whisper, clips)
    assert 0 < sum(again) < len(clips)
    assert {one.temperature for one in together} <= set(TEMPERATURES)
    alone = [heard(whisper, [clip])[0] for clip in reversed(clips)]
    assert [one.text for one in together] == [one.text for one in reversed(alone)]
    np.testing.assert_allclose([floats(one) for one in together], [floats(one) for one in reversed(alone)], atol=1e-3)


def test_without_guards_every_window_is_decoded_once_and_greedily(strict):
    whisper = model("whisper-tiny.en", WhisperOptions(guards=False))
    transcripts = heard(whisper, [read_clips("en", 1)[0], noise(32_000)])
    assert {one.temperature for one in transcripts} == {0.0}


def test_where_all_temperatures_fail_the_surest_stays(monkeypatch):
    monkeypatch.setattr(whisper_guards, "LOGPROB_LIMIT", 0.0)
    monkeypatch.setattr(whisper_guards, "NO_SPEECH_LIMIT", 1.0)
    clips = [read_clips("en", 1)[0], noise(16_000)]
    greedy = heard(model("whisper-tiny.en", WhisperOptions(guards=False)), clips)
    guarded = heard(model("whisper-tiny.en", WhisperOptions()), clips)
    assert (guarded[0].text, guarded[0].temperature) == (greedy[0].text, 0.0)  # of real speech greedily found text
    for one, other in zip(guarded, greedy, strict=True):
        assert one.avg_logprob >= other.avg_logprob - 1e-4


@pytest.mark.parametrize(
    ("tries", "expected"),
    [
        ([("what", -3.0), ("what else", -0.5)], 1),
        ([("what", -1.5), ("else", -4.0), ("odd", -2.0)], 0),
        ([("la " * 60, -1.1), ("else", -4.0), ("odd", -2.0)], 2),
        ([("la " * 60, -1.3), ("lo " * 60, -1.2)], 1),
    ],
)
def test_of_failed_tries_the_surest_that_does_not_repeat_itself_counts(tries, expected):
    texts = [WindowText("en", 1.0, text, logprob, 1, 0.0, 0.0, False, -20.0) for text, logprob in tries]
    assert surest(texts) == expected
