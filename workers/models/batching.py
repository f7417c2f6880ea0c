"""Batches by padded length: clips of like length together, in few shapes, halved when a device runs out of memory.

Padding costs what it covers: random batches of real clips are 2.6 to 6.7 times their own length, batches of sorted
clips 1.1 times. Lengths are rounded up to a few steps, so that kernels meet the same shapes again.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

import torch

from workers.models.fill import book_batch

STEPS_AN_OCTAVE: Final = 4  # a clip is padded by a quarter of its length at most

_Result = TypeVar("_Result")


class Budget:
    """How much padded length one batch may have; `halve` is remembered for all that follow."""

    def __init__(self, limit: float) -> None:
        if limit <= 0:
            raise ValueError(f"a batch needs room for something, not {limit}")
        self.limit = limit

    def halve(self) -> None:
        """Make every batch from now on half as large."""
        self.limit /= 2


def padded_length(length: int, shortest: int) -> int:
    """Return the step that `length` is padded to: `shortest`, or the next quarter of an octave above it."""
    if length <= shortest:
        return shortest
    octave = shortest << math.floor(math.log2(length / shortest))
    step = octave / STEPS_AN_OCTAVE
    return math.ceil(math.ceil(length / step - 1e-9) * step)


def batches(
    lengths: Sequence[int], limit: float, shortest: int, *, stepped: bool = True
) -> Iterator[tuple[list[int], int]]:
    """Yield positions of `lengths` that go together, longest first, and what all are padded to.

    A batch is as large as `limit` padded length allows, but holds one clip at least. Where lengths are not `stepped`,
    clips are padded to the longest of their batch.
    """
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    while order:
        longest = lengths[order[0]]
        width = padded_length(longest, shortest) if stepped else max(longest, shortest)
        count = max(1, int(limit // width))
        yield order[:count], width
        order = order[count:]


def run_batched(
    lengths: Sequence[int],
    budget: Budget,
    compute: Callable[[list[int], int], Sequence[_Result]],
    shortest: int = 1,
    *,
    stepped: bool = True,
) -> list[_Result]:
    """Call `compute` with positions and padded length, batch by batch; return the results in the order of `lengths`.

    Where the device runs out of memory the budget is halved and what is left is batched anew.

    Raises:
        torch.OutOfMemoryError: one clip alone is too much.
    """
    found: dict[int, _Result] = {}
    left = list(range(len(lengths)))
    while left:
        chosen, width = next(batches([lengths[one] for one in left], budget.limit, shortest, stepped=stepped))
        together = [left[one] for one in chosen]
        try:
            found.update(zip(together, compute(together, width), strict=True))
        except torch.OutOfMemoryError:
            if len(together) == 1:
                raise
            torch.cuda.empty_cache()
            while budget.limit >= width * len(together):
                budget.halve()
            continue
        book_batch(sum(lengths[one] for one in together), width * len(together), budget.limit)
        done = set(together)
        left = [one for one in left if one not in done]
    return [found[position] for position in range(len(lengths))]
