"""What a transcriber gives: the text of windows, joined to the transcript of a clip, and its row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.models.whisper_guards import (
    COMPRESSION_RATIO_LIMIT,
    compression_ratio,
    joined_flags,
    needs_retry,
    window_flags,
)


@dataclass(frozen=True, slots=True)
class Word:
    """A word as the model wrote it, when it was said (seconds), and the mean probability of its tokens."""

    word: str
    start: float
    end: float
    probability: float

    def later(self, seconds: float) -> "Word":
        """Return the word moved by that time."""
        return Word(self.word, self.start + seconds, self.end + seconds, self.probability)


@dataclass(frozen=True, slots=True)
class WindowText:
    """What was decoded from at most 30 s of sound.

    Attributes:
        language: ISO 639-1 code, as Whisper has it.
        language_probability: among all languages; 1 where the model knows one.
        text: without space around it.
        logprob: summed over the tokens, nats.
        tokens: how many they are, the end token included.
        no_speech_probability: the model's guess that nobody speaks.
        temperature: that gave the text.
        truncated: whether it was cut off at the limit of tokens.
        level: of the loudest 20 ms, dBFS.
        words: in order, in seconds from the start of the window; None where they were not asked for.
    """

    language: str
    language_probability: float
    text: str
    logprob: float
    tokens: int
    no_speech_probability: float
    temperature: float
    truncated: bool
    level: float
    words: tuple[Word, ...] | None = None

    @property
    def avg_logprob(self) -> float:
        """Nats per token."""
        return self.logprob / self.tokens

    @property
    def doubtful(self) -> bool:
        """Whether the official guards have it decoded again."""
        return needs_retry(self.text, self.avg_logprob, self.no_speech_probability)

    @property
    def flags(self) -> frozenset[str]:
        """The doubts about it."""
        return window_flags(self.text, self.avg_logprob, self.no_speech_probability, self.level, self.truncated)


def surest(tries: Sequence[WindowText]) -> int:
    """Return which of the tries at one window counts: the last if it passes the guards, else the surest of all.

    Of those that do not repeat themselves, if any, it is the one with the highest log-probability a token. Where all
    fail openai/whisper keeps the last, drawn at temperature 1; faster-whisper keeps the surest, as here.
    """
    if not tries[-1].doubtful:
        return len(tries) - 1
    sane = [place for place, one in enumerate(tries) if compression_ratio(one.text) <= COMPRESSION_RATIO_LIMIT]
    # A draw often is the greedy text: to three digits alike, the lower temperature counts.
    return max(sane or range(len(tries)), key=lambda at: (round(tries[at].avg_logprob, 3), -tries[at].temperature))


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard in one waveform, and how far to trust it; nothing is deleted from the text.

    Of a waveform of several windows, `language` is that of the surest window, `avg_logprob` (nats per token, the end
    token included) is over all tokens, `no_speech_probability` is the lowest, `compression_ratio` is of the text of
    the most repetitive window, `temperature` is the highest that was used. `flags`, sorted, are those of
    whisper_guards: of any window, but `no_speech` only where all have it. `words` are in seconds of the recording;
    None where they were not asked for.
    """

    language: str
    language_probability: float
    text: str
    avg_logprob: float
    compression_ratio: float
    no_speech_probability: float
    temperature: float
    flags: tuple[str, ...]
    words: tuple[Word, ...] | None = None


def join(windows: Sequence[WindowText], starts: Sequence[float]) -> Transcript:
    """Make one transcript of the consecutive windows of a waveform; `starts` are theirs in the recording, seconds."""
    surest = max(windows, key=lambda window: window.language_probability)
    return Transcript(
        language=surest.language,
        language_probability=surest.language_probability,
        text=" ".join(window.text for window in windows if window.text),
        avg_logprob=sum(window.logprob for window in windows) / sum(window.tokens for window in windows),
        compression_ratio=max(compression_ratio(window.text) for window in windows),
        no_speech_probability=min(window.no_speech_probability for window in windows),
        temperature=max(window.temperature for window in windows),
        flags=joined_flags([window.flags for window in windows]),
        words=_joined_words(windows, starts),
    )


def transcript_row(transcript: Transcript) -> dict[str, Any]:
    """Return the columns of the table `transcripts` that a transcript fills."""
    words = transcript.words
    return {
        "language": transcript.language,
        "language_probability": transcript.language_probability,
        "text": transcript.text,
        "words": None if words is None else [_word_row(word) for word in words],
        "avg_logprob": transcript.avg_logprob,
        "compression_ratio": transcript.compression_ratio,
        "no_speech_probability": transcript.no_speech_probability,
        "temperature": transcript.temperature,
        "flags": list(transcript.flags),
    }


def _joined_words(windows: Sequence[WindowText], starts: Sequence[float]) -> tuple[Word, ...] | None:
    if any(window.words is None for window in windows):
        return None
    pairs = zip(windows, starts, strict=True)
    return tuple(word.later(start) for window, start in pairs for word in window.words or ())


def _word_row(word: Word) -> dict[str, Any]:
    return {"word": word.word, "start": word.start, "end": word.end, "probability": word.probability}
