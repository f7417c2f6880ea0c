"""Several clips in one window of Whisper: where each lies, whose text is whose, and which look wrong.

The encoder costs one window of 30 s however short a clip is. Packed clips are decoded with timestamps, and whatever
looks wrong is decoded again alone. Pure rules; workers.models.whisper_reading runs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappush, heapreplace
from typing import Final

import numpy as np

from workers.models.whisper_guards import COMPRESSION_RATIO_LIMIT, SAMPLE_RATE, compression_ratio, has_loop, plain
from workers.models.whisper_timestamps import Segment

WINDOW_SAMPLES: Final = 30 * SAMPLE_RATE
FILLED_SECONDS: Final = 28.0  # of a window; of sound that reaches its end the model likes to write nothing
GAP_SECONDS: Final = 2.0  # of silence between the sound of one clip and that of the next, their own silence included
LARGEST_GAIN: Final = 30.0  # dB; clips of one window are brought to the level of the loudest

SURE_LOGPROB: Final = -0.6  # nats per text token; packed text below it is decoded again
SLACK_SECONDS: Final = 0.6  # that a timestamp may miss the sound of its clip by
SLOWEST: Final = 3.0  # characters of text per second of sound
FASTEST: Final = 30.0


@dataclass(frozen=True, slots=True)
class Sound:
    """A clip of at most 30 s: samples, seconds of the first and last sound, level of the loudest 20 ms in dBFS."""

    samples: np.ndarray
    span: tuple[float, float]
    level: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a clip lies in a window: its position in the call, and seconds of its start, first and last sound."""

    clip: int
    start: float
    onset: float
    offset: float

    @property
    def middle(self) -> float:
        """Seconds of the middle of its sound."""
        return (self.onset + self.offset) / 2


Layout = tuple[Place, ...]
"""The clips of one window, in order of time."""


def lay_out(sounds: Sequence[Sound], clips: Sequence[int], gap: float = GAP_SECONDS) -> list[Layout]:
    """Put clips, given by their positions in `sounds`, into as few windows as hold them all when evenly filled.

    The longest come first, each into the window that is emptiest: so windows hold clips of all lengths and take about
    as many steps to decode, and copies of one prompt, which are equally long, come into different windows.
    """
    order = sorted(clips, key=lambda one: (-len(sounds[one].samples), one))
    seconds = sum(len(sounds[one].samples) / SAMPLE_RATE for one in order)
    count = max(1, int(seconds / FILLED_SECONDS))
    while (layouts := _spread(sounds, order, gap, count)) is None:
        count += max(1, count // 50)
    return layouts


def _spread(sounds: Sequence[Sound], order: Sequence[int], gap: float, count: int) -> list[Layout] | None:
    """Lay clips out in `count` windows; None where they do not fit."""
    layouts: list[list[Place]] = []
    ends: list[tuple[float, int]] = []  # a heap of windows by where their last clip ends
    for clip in order:
        if len(layouts) < count:
            layouts.append([Place(clip, 0.0, *sounds[clip].span)])
            heappush(ends, (_end(layouts[-1][-1], sounds), len(layouts) - 1))
            continue
        _, emptiest = ends[0]
        place = _next_place(layouts[emptiest][-1], sounds, clip, gap)
        if _end(place, sounds) > FILLED_SECONDS:
            return None
        layouts[emptiest].append(place)
        heapreplace(ends, (_end(place, sounds), emptiest))
    return [tuple(layout) for layout in layouts]


def _end(place: Place, sounds: Sequence[Sound]) -> float:
    return place.start + len(sounds[place.clip].samples) / SAMPLE_RATE


def _next_place(last: Place, sounds: Sequence[Sound], clip: int, gap: float) -> Place:
    onset, offset = sounds[clip].span
    start = round(max(_end(last, sounds), last.offset + gap - onset) * SAMPLE_RATE) / SAMPLE_RATE
    return Place(clip, start, start + onset, start + offset)


def packed_samples(layout: Layout, sounds: Sequence[Sound]) -> np.ndarray:
    """Return the window's samples: its clips at the level of the loudest of them, zeros between."""
    loudest = max(sounds[place.clip].level for place in layout)
    window = np.zeros(min(round(_end(layout[-1], sounds) * SAMPLE_RATE), WINDOW_SAMPLES), np.float32)
    for place in layout:
        sound = sounds[place.clip]
        gain = 10 ** (min(loudest - sound.level, LARGEST_GAIN) / 20)
        first = round(place.start * SAMPLE_RATE)
        window[first : first + len(sound.samples)] = sound.samples[: len(window) - first] * np.float32(gain)
    return window


@dataclass(frozen=True, slots=True)
class Share:
    """A clip's part of what was decoded from its window, and whether some of it lies where it should not."""

    place: Place
    segments: tuple[Segment, ...]
    misplaced: bool

    @property
    def tokens(self) -> tuple[int, ...]:
        """Its text tokens."""
        return tuple(token for segment in self.segments for token in segment.tokens)

    @property
    def avg_logprob(self) -> float:
        """Nats per text token; 0 where there is none."""
        return sum(segment.logprob for segment in self.segments) / max(1, len(self.tokens))


def shares(layout: Layout, decoded: Sequence[Segment]) -> list[Share]:
    """Give every segment to the clip whose sound it covers most; one that touches other clips misplaces all of them.

    A segment that covers no clip's sound misplaces those on both sides of it.
    """
    owned: list[list[Segment]] = [[] for _ in layout]
    misplaced: set[int] = set()
    for segment in decoded:
        covered = [_overlap(segment, place) for place in layout]
        best = int(np.argmax(covered))
        if covered[best] <= 0:
            misplaced |= _neighbours(layout, segment)
            continue
        owned[best].append(segment)
        others = {index for index, seconds in enumerate(covered) if index != best and seconds > SLACK_SECONDS / 2}
        misplaced |= {*others, best} if others or segment.end is None else set()
    parts = zip(layout, owned, strict=True)
    return [Share(place, tuple(segments), index in misplaced) for index, (place, segments) in enumerate(parts)]


def _overlap(segment: Segment, place: Place) -> float:
    end = WINDOW_SAMPLES / SAMPLE_RATE if segment.end is None else segment.end
    return min(end, place.offset) - max(segment.start, place.onset)


def _neighbours(layout: Layout, segment: Segment) -> set[int]:
    """The clips on both sides of a segment that lies in a gap."""
    behind = next((index for index, place in enumerate(layout) if place.onset >= segment.start), len(layout))
    return {index for index in (behind - 1, behind) if 0 <= index < len(layout)}


def suspicions(share: Share, text: str, others: Sequence[str]) -> frozenset[str]:
    """Say why a packed clip is decoded again alone; `others` are the texts of the other clips of its window.

    `misplaced`: see `shares`. `empty`: no text, though there is sound. `cut`: text begins later or ends earlier than
    the sound by more than SLACK_SECONDS. `unsure`: the average log-probability is below SURE_LOGPROB. `repetitive`:
    it loops, or its compression ratio is above 2.4. `echo`: another clip of the window has the same text. `rate`:
    fewer or more characters per second of sound than anybody says.
    """
    if not text:
        return frozenset({"empty"})
    place, spoken = share.place, [segment.end for segment in share.segments if segment.end is not None]
    rate = len(text) / max(0.1, place.offset - place.onset)
    late = share.segments[0].start - place.onset > SLACK_SECONDS
    found = {
        "misplaced": share.misplaced,
        "cut": late or place.offset - max(spoken, default=0.0) > SLACK_SECONDS,
        "unsure": share.avg_logprob < SURE_LOGPROB,
        "repetitive": has_loop(text) or compression_ratio(text) > COMPRESSION_RATIO_LIMIT,
        "echo": plain(text) in map(plain, others),
        "rate": not SLOWEST <= rate <= FASTEST,
    }
    return frozenset(reason for reason, true in found.items() if true)
