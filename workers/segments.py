"""Cut a recording into segments while it streams by; what comes out does not depend on how it came in.

Positions are samples from the recording's start. Only what a segment may still need is kept: `max_seconds` and, by
speech, some 20 s more.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np

from workers.samples import INT16_SCALE, resampler, to_int16
from workers.tape import Pieces, Tape
from workers.vad import BLOCK_FRAMES, FRAME, SAMPLE_RATE, Span, SpanFinder, SpeechDetector, check_pcm

BLOCK: Final = BLOCK_FRAMES * FRAME  # samples that are looked at together, 8.2 s at 16 kHz
SHORTEST_LIMIT_SECONDS: Final = 0.1  # a limit must leave room for frames to choose a cut from


@dataclass(frozen=True, slots=True)
class Segment:
    """A span of a recording: samples `start` up to `end`, as mono int16 `pcm`, the `index`-th of the recording.

    `speech_ratio` is the part of it in which speech was detected, in [0, 1]; None where nobody looked for speech.
    `channel` is the object's channel it was cut from, from 0; None where channels were mixed.
    """

    index: int
    start: int
    end: int
    pcm: np.ndarray
    speech_ratio: float | None
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class SegmentSettings:
    """How to cut; all but `by` and `threshold` are seconds, to the nearest sample.

    `speech`: speech as Silero VAD's get_speech_timestamps finds it (`threshold` to `pad_seconds`, its defaults),
    joined across pauses of at most `max_pause_seconds` for as long as `max_seconds` allows.
    `windows`: `max_seconds` long, one every `hop_seconds` (by default `max_seconds`), which may overlap.
    `whole`: the recording, cut at multiples of `max_seconds` if it is longer.
    Raises ValueError for values that make no sense.
    """

    by: Literal["speech", "windows", "whole"]
    max_seconds: float
    hop_seconds: float | None = None
    threshold: float = 0.5
    min_speech_seconds: float = 0.25
    min_silence_seconds: float = 0.1
    pad_seconds: float = 0.03
    max_pause_seconds: float = 2.0

    def __post_init__(self) -> None:
        if self.by not in ("speech", "windows", "whole"):
            raise ValueError(f"segments are cut by speech, windows or whole, not by {self.by!r}")
        if not SHORTEST_LIMIT_SECONDS <= self.max_seconds < math.inf:
            raise ValueError(f"max_seconds must be {SHORTEST_LIMIT_SECONDS} or more and finite, not {self.max_seconds}")
        if self.hop_seconds is not None:
            self._check_hop(self.hop_seconds)
        if not 0.01 < self.threshold < 1:
            raise ValueError(f"threshold is a probability between 0.01 and 1, not {self.threshold}")
        for name in ("min_speech_seconds", "min_silence_seconds", "pad_seconds", "max_pause_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more and finite, not {getattr(self, name)}")

    def _check_hop(self, hop_seconds: float) -> None:
        if self.by != "windows":
            raise ValueError(f"hop_seconds belongs to segments by windows, not by {self.by}")
        if not 0.001 <= hop_seconds <= self.max_seconds:
            raise ValueError(f"hop_seconds must be from 0.001 to max_seconds ({self.max_seconds}), not {hop_seconds}")


class Segmenter(Protocol):
    """Cuts one recording: `push` its samples in pieces of any length, then `finish` once."""

    @property
    def speech_samples(self) -> int | None:
        """How many samples of speech the segments so far hold; None where nobody looks for speech."""

    @property
    def next_start(self) -> int:
        """The sample before which no segment that is not handed out yet can start."""

    def push(self, pcm: np.ndarray) -> list[Segment]:
        """Take the next samples (1-D int16; ValueError otherwise); return the segments that are complete."""

    def finish(self) -> list[Segment]:
        """Return the segments that are left at the recording's end."""


def segmenter(settings: SegmentSettings, detector: SpeechDetector | None, sample_rate: int) -> Segmenter:
    """Start on a recording of `sample_rate` Hz; `detector` is what cutting by speech needs, and only that.

    Raises ValueError for speech without a detector or at a rate that is no multiple of 16 kHz, the detector's.
    """
    if settings.by != "speech":
        return _Windower(settings, sample_rate)
    if detector is None or not sample_rate or sample_rate % SAMPLE_RATE:
        raise ValueError(
            f"segments by speech need a detector and a multiple of {SAMPLE_RATE} Hz, not {detector} and {sample_rate}"
        )
    return _SpeechCutter(settings, detector, sample_rate // SAMPLE_RATE)


class _Windower:
    """Fixed windows; the last one is shorter, and is left out if the windows before it hold all of it."""

    speech_samples: None = None

    def __init__(self, settings: SegmentSettings, sample_rate: int) -> None:
        self._length = round(settings.max_seconds * sample_rate)
        self._hop = round((settings.hop_seconds or settings.max_seconds) * sample_rate)
        self._tape = Pieces()
        self._index = 0

    def push(self, pcm: np.ndarray) -> list[Segment]:
        check_pcm(pcm)
        self._tape.append(pcm)
        segments = []
        while self.next_start + self._length <= self._tape.end:
            segments.append(self._cut(self.next_start + self._length))
        return segments

    def finish(self) -> list[Segment]:
        held = self.next_start - self._hop + self._length if self._index else 0  # where the window before this one ends
        return [self._cut(self._tape.end)] if self._tape.end > held else []

    @property
    def next_start(self) -> int:
        return self._index * self._hop

    def _cut(self, end: int) -> Segment:
        start = self.next_start
        segment = Segment(self._index, start, end, self._tape.read(start, end), None)
        self._index += 1
        self._tape.forget(self.next_start)
        return segment


class _SpeechCutter:
    """Joins spans of speech greedily into segments no longer than `max_seconds`.

    A cut goes into a pause. Only a single span of speech that is longer than `max_seconds` is cut itself: in the
    middle of the frame with the lowest probability of speech in the second half of the allowed length.
    The model always hears the same blocks, so that not even rounding depends on how the recording is pushed.
    It hears 16 kHz, and all positions here are samples of that: `factor` times as many come in and go out.
    """

    def __init__(self, settings: SegmentSettings, detector: SpeechDetector, factor: int) -> None:
        self._factor = factor
        self._longest = round(settings.max_seconds * SAMPLE_RATE)
        self._longest_pause = round(settings.max_pause_seconds * SAMPLE_RATE)
        self._stream = detector.stream()
        self._finder = SpanFinder(
            settings.threshold,
            min_speech=round(settings.min_speech_seconds * SAMPLE_RATE),
            min_silence=round(settings.min_silence_seconds * SAMPLE_RATE),
            pad=round(settings.pad_seconds * SAMPLE_RATE),
        )
        self._samples = Tape(np.int16)  # as they came in
        self._sound = self._samples if factor == 1 else Tape(np.int16)  # what the model hears
        self._resample = resampler(factor * SAMPLE_RATE, SAMPLE_RATE)
        self._probabilities = Tape(np.float32)  # one a frame
        self._heard = 0  # samples that the model has been given
        self._open: Span | None = None  # the segment under way; it ends with the last span that is in it
        self._speech = 0  # samples of speech in it
        self._done: list[Segment] = []  # not handed out yet
        self._index = 0
        self.speech_samples = 0

    def push(self, pcm: np.ndarray) -> list[Segment]:
        check_pcm(pcm)
        for start in range(0, len(pcm), BLOCK):
            self._samples.append(pcm[start : start + BLOCK])
            self._prepare(pcm[start : start + BLOCK])
            if self._sound.end - self._heard >= BLOCK:
                self._advance()
        return self._take()

    def finish(self) -> list[Segment]:
        self._prepare(np.zeros(0, np.int16), last=True)
        rest = self._stream.push(self._sound.read(self._heard, self._sound.end))
        spans = self._listen(np.concatenate([rest, self._stream.finish()]))
        for span in spans + self._finder.finish(self._sound.end):
            self._add(span)
        if self._open:
            self._close(self._open)
        return self._take()

    def _prepare(self, pcm: np.ndarray, last: bool = False) -> None:
        """Bring samples to the rate that the model hears."""
        if self._factor > 1 and self._samples.end:
            samples = pcm.astype(np.float32) / np.float32(INT16_SCALE)
            self._sound.append(to_int16(self._resample(samples, last)))

    def _advance(self) -> None:
        """Hear one block; settle what it settles; forget what nothing can need any more."""
        heard = self._heard + BLOCK
        for span in self._listen(self._stream.push(self._sound.read(self._heard, heard))):
            self._add(span)
        self._heard = heard
        under_way = self._finder.under_way
        if under_way:
            self._make_room(under_way)
        elif self._open and self._is_parted(self._open, self._finder.horizon):
            self._close(self._open)
            self._open = None
        self._samples.forget(self.next_start)
        if self._factor > 1:
            self._sound.forget(self._heard)
        self._probabilities.forget(self._next_start // FRAME)

    @property
    def next_start(self) -> int:
        return self._next_start * self._factor

    @property
    def _next_start(self) -> int:
        return self._open.start if self._open else self._finder.horizon

    def _listen(self, probabilities: np.ndarray) -> list[Span]:
        self._probabilities.append(probabilities)
        return self._finder.feed(probabilities)

    def _add(self, span: Span) -> None:
        """Put a span of speech, or what cuts have left of it, into the segment under way or a new one."""
        segment = self._make_room(span)
        self._speech += span.end - max(span.start, segment.start)
        self._open = Span(segment.start, span.end)

    def _make_room(self, span: Span) -> Span:
        """Return the segment that `span` goes into, after closing the ones that it cannot go into.

        `span` may still grow, for that can only close more.
        """
        segment = self._open
        if segment and self._speech and (self._is_parted(segment, span.start) or self._is_too_long(segment, span)):
            self._close(segment)
            segment = None
        segment = segment or Span(span.start, span.start)
        while self._is_too_long(segment, span):
            cut = self._calmest(segment.start)
            self._speech = cut - segment.start
            self._close(Span(segment.start, cut))
            segment = Span(cut, cut)
        self._open = segment
        return segment

    def _is_parted(self, segment: Span, start: int) -> bool:
        return start - segment.end > self._longest_pause

    def _is_too_long(self, segment: Span, span: Span) -> bool:
        return span.end - segment.start > self._longest

    def _calmest(self, start: int) -> int:
        """Where to cut speech that begins at `start`; the last such place if there are several."""
        first = -((FRAME // 2 - start - self._longest // 2) // FRAME)
        last = (start + self._longest - FRAME // 2) // FRAME
        latest_first = self._probabilities.read(first, last + 1)[::-1]
        return (last - int(np.argmin(latest_first))) * FRAME + FRAME // 2

    def _close(self, segment: Span) -> None:
        """Complete a segment; none is under way then."""
        start, end = segment.start * self._factor, min(segment.end * self._factor, self._samples.end)
        pcm = self._samples.read(start, end).copy()
        speech = min(self._speech * self._factor, len(pcm))
        self._done.append(Segment(self._index, start, end, pcm, speech / len(pcm)))
        self.speech_samples += speech
        self._index += 1
        self._speech = 0

    def _take(self) -> list[Segment]:
        done, self._done = self._done, []
        return done
