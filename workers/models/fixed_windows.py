"""Windows: clips cut into consecutive pieces of one length, for models that hear a fixed length and no more.

Nothing is cut off. A short rest is a window of its own, filled up as its model wants; it counts by what it holds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from workers.models.batching import Budget, run_batched
from workers.models.model import Loading

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of clip number `owner`: where it begins and how long it is, in samples or frames."""

    owner: int
    start: int
    length: int


def cut(lengths: Sequence[int], size: int) -> list[Window]:
    """Return the windows of clips of these lengths, in order, `size` long at most; an empty clip is an empty window."""
    return [
        Window(owner, start, min(size, length - start))
        for owner, length in enumerate(lengths)
        for start in range(0, max(length, 1), size)
    ]


def window_budget(loading: Loading, seconds: float) -> Budget:
    """Return how many windows of so many seconds may be on the device together: one at least."""
    return Budget(max(1, min(loading.batch_size, int(loading.batch_seconds // seconds))))


def run_windows(
    windows: Sequence[Window], budget: Budget, compute: Callable[[list[Window]], Sequence[_Result]]
) -> list[list[_Result]]:
    """Call `compute` batch by batch; return for each clip the results of its windows, in order.

    Raises:
        torch.OutOfMemoryError: one window alone is too much.
    """
    found = run_batched([1] * len(windows), budget, lambda chosen, _: compute([windows[one] for one in chosen]))
    owned: list[list[_Result]] = [[] for _ in range(windows[-1].owner + 1)] if windows else []
    for window, result in zip(windows, found, strict=True):
        owned[window.owner].append(result)
    return owned
