"""Windows of equal length of many clips, a bounded number of them on the device at once, whoever they belong to."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from workers.devices import send
from workers.models.batching import Budget
from workers.models.fill import book_batch
from workers.models.running import RunningPool

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive windows of one clip that go through a network together."""

    owner: int
    first: int
    count: int


def in_batches(
    counts: Sequence[int], budget: Budget, compute: Callable[[list[Piece]], _Result]
) -> Iterator[tuple[list[Piece], _Result]]:
    """Call `compute` with batches of pieces, in order; every one but the last has `budget.limit` windows.

    `counts` are the windows of each clip. Where the device runs out of memory the budget is halved and the batch is
    cut anew.

    Raises:
        torch.OutOfMemoryError: one window alone is too much.
    """
    left = deque(Piece(owner, 0, count) for owner, count in enumerate(counts) if count)
    while left:
        pieces = _take(left, max(1, int(budget.limit)))
        try:
            result = compute(pieces)
        except torch.OutOfMemoryError:
            windows = sum(piece.count for piece in pieces)
            if windows == 1:
                raise
            torch.cuda.empty_cache()
            while budget.limit >= windows:
                budget.halve()
            left.extendleft(reversed(pieces))
            continue
        count = sum(piece.count for piece in pieces)
        book_batch(count, count, max(1, int(budget.limit)))
        yield pieces, result


def _take(left: "deque[Piece]", room: int) -> list[Piece]:
    """Take pieces of `room` windows together from the front of `left`."""
    taken: list[Piece] = []
    while left and room:
        piece = left.popleft()
        count = min(room, piece.count)
        taken.append(Piece(piece.owner, piece.first, count))
        room -= count
        if count < piece.count:
            left.appendleft(Piece(piece.owner, piece.first + count, piece.count - count))
    return taken


class _OnTheWay:
    """A tensor that is copied from the device while the device computes the next."""

    def __init__(self, pieces: list[Piece], tensor: torch.Tensor) -> None:
        self._pieces = pieces
        self._tensor = tensor.to("cpu", torch.float32, non_blocking=True)
        self._copied = torch.cuda.Event() if tensor.is_cuda else None  # type: ignore[no-untyped-call]
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(tensor.device))

    def arrived(self) -> Iterator[tuple[Piece, np.ndarray]]:
        if self._copied is not None:
            self._copied.synchronize()
        vectors, start = self._tensor.numpy(), 0
        for piece in self._pieces:
            yield piece, vectors[start : start + piece.count]
            start += piece.count


def fetched(
    counts: Sequence[int], budget: Budget, compute: Callable[[list[Piece]], torch.Tensor]
) -> Iterator[tuple[Piece, np.ndarray]]:
    """Yield each piece with its vectors, float32 of shape (windows, dim), in order; `compute` gives a batch's vectors.

    The copy from the device runs one batch behind, so that the device does not wait for it.
    """
    behind: _OnTheWay | None = None
    for pieces, vectors in in_batches(counts, budget, compute):
        current = _OnTheWay(pieces, vectors)
        if behind is not None:
            yield from behind.arrived()
        behind = current
    if behind is not None:
        yield from behind.arrived()


def pool_windows(
    counts: Sequence[int], budget: Budget, compute: Callable[[list[Piece]], torch.Tensor], pooling: str
) -> list[np.ndarray]:
    """Return the pooled vectors of each clip, which has one window at least: see RunningPool.result."""
    pools = [RunningPool(pooling) for _ in counts]
    for piece, vectors in fetched(counts, budget, compute):
        pools[piece.owner].add(vectors)
    return [pool.result() for pool in pools]


def cut(
    waveforms: Sequence[np.ndarray], pieces: Sequence[Piece], size: int, hop: int, before: int, device: torch.device
) -> torch.Tensor:
    """Return the windows (n, size) of the pieces, float32 on the device.

    Window i of a waveform sees its samples from i hop - before on; zeros where it has none. Windows that overlap travel
    to the device as one span.
    """
    if hop > size:
        pieces = [Piece(piece.owner, piece.first + step, 1) for piece in pieces for step in range(piece.count)]
    spans = [(piece.count - 1) * hop + size for piece in pieces]
    samples = np.zeros(sum(spans), np.float32)
    starts: list[np.ndarray] = []
    position = 0
    for piece, span in zip(pieces, spans, strict=True):
        begin = piece.first * hop - before
        part = waveforms[piece.owner][max(0, begin) : max(0, begin + span)]
        samples[position + max(0, -begin) :][: len(part)] = part
        starts.append(position + hop * np.arange(piece.count))
        position += span
    first = send(torch.from_numpy(np.concatenate(starts)), device)
    return send(torch.from_numpy(samples), device)[first[:, None] + torch.arange(size, device=device)]
