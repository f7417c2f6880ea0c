"""Frames of a stack of convolutions without padding, and windows of long clips that together give each frame once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self

CONTEXT_SHARE: Final = 12  # a window's margin on either side, where the clip goes on, is a twelfth of it


@dataclass(frozen=True, slots=True)
class FrameGrid:
    """Where frames lie: frame i sees `receptive` samples from `hop` i on."""

    receptive: int
    hop: int

    @classmethod
    def of(cls, kernels: Sequence[int], strides: Sequence[int]) -> Self:
        """Return the grid of convolutions one behind the other."""
        receptive, hop = 1, 1
        for kernel, stride in zip(kernels, strides, strict=True):
            receptive += (kernel - 1) * hop
            hop *= stride
        return cls(receptive, hop)

    def frames(self, samples: int) -> int:
        """Return how many frames `samples` samples give; what is shorter than one frame is padded to one."""
        return max(0, samples - self.receptive) // self.hop + 1

    def samples(self, frames: int) -> int:
        """Return how many samples `frames` frames see."""
        return (frames - 1) * self.hop + self.receptive


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a clip that goes through a network at once.

    Attributes:
        owner: the clip's position in the call.
        start: its first sample in the clip.
        samples: how many it spans, at least one frame's.
        context: frames at its beginning that belong to the window before.
        frames: frames behind those that are its own.
    """

    owner: int
    start: int
    samples: int
    context: int
    frames: int


def windows(owner: int, samples: int, grid: FrameGrid, longest: int) -> Iterator[Window]:
    """Yield the windows of a clip of `samples` samples, each of `longest` samples at most.

    A clip that fits is one window. A longer one is cut into windows of nearly equal numbers of frames, which see a
    margin of context on either side whose frames are dropped: each frame of the clip is given by one window, in order,
    and their number is that of the clip in one piece.
    """
    total, room = grid.frames(samples), grid.frames(longest)
    if total <= room:
        yield Window(owner, 0, max(samples, grid.receptive), 0, total)
        return
    margin = room // CONTEXT_SHARE
    count = -(-total // (room - 2 * margin))
    edges = [total * number // count for number in range(count + 1)]
    for first, last in pairwise(edges):
        begin, end = max(0, first - margin), min(total, last + margin)
        yield Window(owner, begin * grid.hop, grid.samples(end - begin), first - begin, last - first)
