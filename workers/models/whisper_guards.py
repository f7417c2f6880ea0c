"""Whisper's guards: when a window is decoded again, when it is silence, and which doubts about its text are kept.

Pure rules over what any implementation of Whisper reports. Thresholds and the rule of the fallback are those of
openai/whisper `transcribe.py`; nothing here deletes text: people do say "thank you".
"""

import math
import re
import unicodedata
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np

TEMPERATURES: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # a window that fails at one is decoded again at the next
COMPRESSION_RATIO_LIMIT: Final = 2.4  # text that zlib shrinks more than this repeats itself
LOGPROB_LIMIT: Final = -1.0  # nats per token, the end token included; below it the model guesses
NO_SPEECH_LIMIT: Final = 0.6  # probability; above it, and below LOGPROB_LIMIT, the window is silence

LOOP_WORDS: Final = 6  # the longest phrase whose repetition is looked for
LOOP_TIMES: Final = 4  # this often in a row is a loop

DIGITAL_SILENCE: Final = -90.0  # dBFS; no 20 ms louder than this: whatever the text says, nobody said it
NEAR_SILENCE: Final = -60.0  # dBFS
PHRASE_LOGPROB: Final = -0.7  # nats per token; a notorious phrase below it is more likely learnt than heard
SAMPLE_RATE: Final = 16_000  # Hz
FRAME_SAMPLES: Final = 320  # 20 ms
SOUND_RATIO: Final = 1e-4  # of the loudest power, 40 dB below

PHRASES: Final = frozenset(
    {
        "you",
        "bye",
        "bye bye",
        "thank you",
        "thank you very much",
        "thank you so much",
        "thank you for watching",
        "thank you so much for watching",
        "thanks for watching",
        "thanks for listening",
        "please subscribe",
        "please subscribe to my channel",
        "like and subscribe",
        "subtitles by the amaraorg community",
        "subtítulos realizados por la comunidad de amaraorg",
        "gracias por ver el video",
        "suscríbete al canal",
        "sous titres réalisés par la communauté damaraorg",
        "merci davoir regardé cette vidéo",
        "untertitel der amaraorg community",
        "untertitel im auftrag des zdf für funk 2017",
        "vielen dank fürs zuschauen",
        "ご視聴ありがとうございました",
        "请不吝点赞 订阅 转发 打赏支持明镜与点点栏目",
        "продолжение следует",
        "субтитры сделал dimatorzok",
    }
)
"""What Whisper writes of silence and noise, as `plain` spells it; from Baranski et al. 2025 (arXiv 2501.11378) and
the discussions of openai/whisper."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff"  # Thai, Lao, Burmese, kana, Han
_WORDS: Final = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


def compression_ratio(text: str) -> float:
    """Return UTF-8 bytes over zlib bytes, as openai/whisper has it: ordinary speech is below 2.4, no text is 0."""
    content = text.encode()
    return len(content) / len(zlib.compress(content))


def is_silent(avg_logprob: float, no_speech_probability: float) -> bool:
    """Tell whether the model calls a window silence: it believes so, and was not sure of the text either."""
    return no_speech_probability > NO_SPEECH_LIMIT and avg_logprob < LOGPROB_LIMIT


def needs_retry(text: str, avg_logprob: float, no_speech_probability: float) -> bool:
    """Tell whether a window is to be decoded again at the next of TEMPERATURES, if there is one.

    Where all fail, the surest text stays (workers.models.transcript.surest).
    """
    failed = compression_ratio(text) > COMPRESSION_RATIO_LIMIT or avg_logprob < LOGPROB_LIMIT
    return failed and not is_silent(avg_logprob, no_speech_probability)


def sound_level(waveform: np.ndarray) -> float:
    """Return the level of the loudest 20 ms of 16-kHz samples, shape (n,), in dBFS (RMS); -inf where all are zero."""
    power = float(_frame_power(waveform).max(initial=0.0))
    return 10 * math.log10(power) if power > 0 else -math.inf


def sound_span(waveform: np.ndarray) -> tuple[float, float]:
    """Return when sound begins and ends in 16-kHz samples, shape (n,), seconds, to 20 ms.

    Sound is what is less than 40 dB below the loudest 20 ms; where all samples are zero it is all of them.
    """
    power = _frame_power(waveform)
    loud = np.flatnonzero(power >= power.max(initial=0.0) * SOUND_RATIO)
    if not len(loud):
        return 0.0, 0.0
    seconds = FRAME_SAMPLES / SAMPLE_RATE
    return float(loud[0] * seconds), float(min((loud[-1] + 1) * seconds, len(waveform) / SAMPLE_RATE))


def has_loop(text: str) -> bool:
    """Tell whether the same 1 to 6 words stand at least 4 times in a row, whatever their case and punctuation.

    In a script without spaces each character counts as a word.
    """
    words = _plain_words(text)
    return any(_longest_echo(words, size) >= (LOOP_TIMES - 1) * size for size in range(1, LOOP_WORDS + 1))


def is_hallucination(text: str, avg_logprob: float, no_speech_probability: float, level: float) -> bool:
    """Tell whether text was likely not said: a doubt, never a reason to delete it.

    True of text that is not empty if the model calls the window silence; if no 20 ms are louder than -90 dBFS
    (`level`, see `sound_level`); or if all of it is one of PHRASES, and either no 20 ms are louder than -60 dBFS or
    the average log-probability is below -0.7.
    """
    if not text.strip():
        return False
    if is_silent(avg_logprob, no_speech_probability) or level < DIGITAL_SILENCE:
        return True
    return plain(text) in PHRASES and (level < NEAR_SILENCE or avg_logprob < PHRASE_LOGPROB)


def window_flags(
    text: str, avg_logprob: float, no_speech_probability: float, level: float, truncated: bool
) -> frozenset[str]:
    """Return the doubts about one window.

    `repetitive`: its compression ratio is above 2.4. `low_confidence`: its average log-probability is below -1.
    `no_speech`: the model calls it silence. `loop`: see `has_loop`. `hallucination`: see `is_hallucination`.
    `truncated`: its text was cut off at the limit of tokens.
    """
    doubts = {
        "hallucination": is_hallucination(text, avg_logprob, no_speech_probability, level),
        "loop": has_loop(text),
        "low_confidence": avg_logprob < LOGPROB_LIMIT,
        "no_speech": is_silent(avg_logprob, no_speech_probability),
        "repetitive": compression_ratio(text) > COMPRESSION_RATIO_LIMIT,
        "truncated": truncated,
    }
    return frozenset(flag for flag, raised in doubts.items() if raised)


def joined_flags(windows: Sequence[frozenset[str]]) -> tuple[str, ...]:
    """Return the doubts about a clip, sorted: those of any of its windows, but `no_speech` only where all have it."""
    everywhere = frozenset.intersection(*windows)
    somewhere = frozenset.union(*windows)
    return tuple(sorted(flag for flag in somewhere if flag != "no_speech" or flag in everywhere))


def _frame_power(waveform: np.ndarray) -> np.ndarray:
    """Return the mean square of every 20 ms, the last filled up with zeros."""
    frames = np.zeros(-(-len(waveform) // FRAME_SAMPLES) * FRAME_SAMPLES, np.float32)
    frames[: len(waveform)] = waveform
    power: np.ndarray = np.square(frames.reshape(-1, FRAME_SAMPLES)).mean(axis=1)
    return power


def _plain_words(text: str) -> list[str]:
    return _WORDS.findall(plain(text))


def plain(text: str) -> str:
    """Return text in lower case, without punctuation, with single spaces."""
    spaced = text.casefold().replace("-", " ")
    return " ".join("".join(character for character in spaced if not _is_mark(character)).split())


def _is_mark(character: str) -> bool:
    """Tell whether a character is punctuation or a symbol."""
    return unicodedata.category(character)[0] in "PS"


def _longest_echo(words: Sequence[str], size: int) -> int:
    """Return the length of the longest run of words that each equal the word `size` places before."""
    longest = run = 0
    for word, before in zip(words[size:], words, strict=False):
        run = run + 1 if word == before else 0
        longest = max(longest, run)
    return longest
