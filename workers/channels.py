"""Cut channels of a recording each for itself: in a call-centre recording each side has one speaker."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from workers.segments import Segment, Segmenter


class ChannelSegmenter:
    """A segmenter a channel; what they cut is numbered together, by start and then by channel.

    The numbers do not depend on how the recording comes in: a segment waits until no channel can still give one that
    starts before it.
    """

    def __init__(self, make: Callable[[], Segmenter], channels: Sequence[int]) -> None:
        """Take what makes the segmenter of one channel, and the channels' numbers in the object, from 0."""
        self._cutters = {channel: make() for channel in channels}
        self._waiting: list[tuple[int, int, Segment]] = []  # a heap by start and channel
        self._index = 0

    @property
    def speech_samples(self) -> int | None:
        """How many samples of speech the channels hold together; None where nobody looks for speech."""
        found = [cutter.speech_samples for cutter in self._cutters.values()]
        return None if None in found else sum(speech for speech in found if speech is not None)

    @property
    def next_start(self) -> int:
        """The sample before which no segment that is not handed out yet can start."""
        earliest = min(cutter.next_start for cutter in self._cutters.values())
        return min(earliest, self._waiting[0][0]) if self._waiting else earliest

    def push(self, pcm: np.ndarray) -> list[Segment]:
        """Take the next int16 samples, shape (n,) of one channel or (n, channels); return complete segments."""
        for cutter, samples in zip(self._cutters.values(), _by_channel(pcm), strict=True):
            self._queue(cutter, cutter.push(samples))
        bounds = [(cutter.next_start, channel) for channel, cutter in self._cutters.items()]
        return self._taken(min(bounds))

    def finish(self) -> list[Segment]:
        """Return the segments that are left at the recording's end."""
        for cutter in self._cutters.values():
            self._queue(cutter, cutter.finish())
        return self._taken(None)

    def _queue(self, cutter: Segmenter, segments: list[Segment]) -> None:
        channel = next(number for number, one in self._cutters.items() if one is cutter)
        for segment in segments:
            heapq.heappush(self._waiting, (segment.start, channel, replace(segment, channel=channel)))

    def _taken(self, bound: tuple[int, int] | None) -> list[Segment]:
        """Return what waits and comes before `bound` (None: all), numbered."""
        taken = []
        while self._waiting and (bound is None or self._waiting[0][:2] < bound):
            taken.append(replace(heapq.heappop(self._waiting)[2], index=self._index))
            self._index += 1
        return taken


def _by_channel(pcm: np.ndarray) -> list[np.ndarray]:
    return [pcm] if pcm.ndim == 1 else list(np.ascontiguousarray(pcm.T))
