"""The latest part of a signal that streams by: what a segment may still need is kept, and nothing else."""

from collections import deque

import numpy as np


class Tape:
    """The latest part of a long signal, in memory that stays as large as that part ever was; positions are absolute."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._memory = np.zeros(0, dtype)
        self.start = self.end = 0  # of the part that is kept
        self._offset = 0  # the position of the memory's first element

    def append(self, values: np.ndarray) -> None:
        """Copy `values` behind what is there."""
        if self.end + len(values) - self._offset > len(self._memory):
            self._make_room(len(values))
        self._memory[self.end - self._offset :][: len(values)] = values
        self.end += len(values)

    def read(self, start: int, end: int) -> np.ndarray:
        """A view, good until the next append."""
        assert self.start <= start <= end <= self.end, f"{start}..{end} is not in {self.start}..{self.end}"
        return self._memory[start - self._offset : end - self._offset]

    def forget(self, before: int) -> None:
        """Keep nothing that lies before a position."""
        self.start = min(max(self.start, before), self.end)

    def _make_room(self, more: int) -> None:
        """Move what is kept to the front of memory at least twice as long as needed, so that this happens seldom."""
        kept = self.read(self.start, self.end)
        needed = 2 * (len(kept) + more)
        memory = self._memory if needed <= len(self._memory) else np.empty(needed, self._memory.dtype)
        memory[: len(kept)] = kept
        self._memory, self._offset = memory, self.start


class Pieces:
    """The latest part of a long signal as it came in, copied once, when it is read; positions are absolute."""

    def __init__(self) -> None:
        self._pieces: deque[np.ndarray] = deque()
        self._start = self.end = 0  # of the pieces

    def append(self, values: np.ndarray) -> None:
        """Take what nobody will write to any more."""
        self._pieces.append(values)
        self.end += len(values)

    def read(self, start: int, end: int) -> np.ndarray:
        """A copy."""
        position, found = self._start, []
        for piece in self._pieces:
            found.append(piece[max(0, start - position) : max(0, end - position)])
            position += len(piece)
            if position >= end:
                break
        return np.concatenate(found)

    def forget(self, before: int) -> None:
        """Keep no piece that ends before a position."""
        while self._pieces and self._start + len(self._pieces[0]) <= before:
            self._start += len(self._pieces.popleft())
