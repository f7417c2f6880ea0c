"""How full the batches of this process were: booked where batches are made, taken by whoever measures."""

from dataclasses import dataclass, replace
from typing import Final


@dataclass(slots=True)
class Fill:
    """How full batches were, in whatever their budget is counted in.

    Attributes:
        used: what they held.
        padded: the same with padding.
        room: what their budget allowed.
    """

    used: float = 0.0
    padded: float = 0.0
    room: float = 0.0

    def add(self, used: float, padded: float, room: float) -> None:
        """Book one batch, which may be larger than its budget where it is one clip."""
        self.used, self.padded, self.room = self.used + used, self.padded + padded, self.room + max(room, padded)


_FILL: Final = Fill()  # of this process: a process holds one pool's member


def take_fill() -> Fill:
    """Return how full the batches of this process were since it was last asked."""
    taken = replace(_FILL)
    _FILL.used = _FILL.padded = _FILL.room = 0.0
    return taken


def book_batch(used: float, padded: float, room: float) -> None:
    """Book a batch that was computed."""
    _FILL.add(used, padded, room)
