"""Column charts as plain geometry; the template draws them as SVG, once for a screen and once for a phone.

A drawing is a few dozen rectangles, its colours come from the page's style sheet so that they follow light and dark,
and its words stay text: less than any plotting library would have to be talked out of.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FULL, HALF, PHONE = 1100.0, 530.0, 340.0  # about the pixels that each is shown at
HEIGHT: Final = 200.0
LEFT, TOP, BOTTOM = 46.0, 12.0, 24.0
MOST_COLUMN: Final = 34.0  # pixels; a week has no columns like doors
MOST_BIN: Final = 90.0
GAP: Final = 0.28  # of the room of a column
LETTER: Final = 6.4  # pixels, of the labels' type
STEPS: Final = (1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Mark:
    """A rectangle of a series, and what it says when pointed at."""

    x: float
    y: float
    width: float
    height: float
    series: int
    says: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at a place on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing; lengths in pixels of its own view box."""

    width: float
    height: float
    floor: float
    marks: list[Mark]
    across: list[Tick]
    up: list[Tick]


@dataclass(frozen=True, slots=True)
class Columns:
    """What to draw: labels from left to right, and for each series a value a label; series stand on each other."""

    labels: Sequence[str]
    series: Sequence[tuple[str, Sequence[float]]]
    unit: str = ""
    between: bool = False  # labels stand at the columns' left edges: a histogram

    def drawn(self, width: float) -> Chart:
        """Return the drawing of a width."""
        floor, room = HEIGHT - BOTTOM, (width - LEFT) / max(1, len(self.labels))
        room = min(room, MOST_BIN) if self.between else room
        column = room * 0.94 if self.between else min(MOST_COLUMN, room * (1 - GAP))
        totals = [sum(values[place] for _, values in self.series) for place in range(len(self.labels))]
        ticks = axis(max(totals, default=0.0))
        scale = (floor - TOP) / ticks[-1]
        marks = []
        for place, label in enumerate(self.labels):
            x, y = LEFT + room * place + (room - column) / 2, floor
            for number, (name, values) in enumerate(self.series):
                tall = values[place] * scale
                y -= tall
                if values[place]:
                    says = ", ".join(part for part in (label, name, f"{short(values[place])} {self.unit}") if part)
                    marks.append(Mark(x, y, column, tall, number, says.strip()))
        return Chart(
            width, HEIGHT, floor, marks, self._across(room), [Tick(floor - t * scale, short(t)) for t in ticks]
        )

    def _across(self, room: float) -> list[Tick]:
        """Label every column, or every second, third ... where they would touch."""
        longest = max((len(label) for label in self.labels), default=1)
        every = max(1, math.ceil((longest + 1.5) * LETTER / room))
        shift = 0.03 if self.between else 0.5
        return [
            Tick(LEFT + room * (place + shift), label)
            for place, label in enumerate(self.labels)
            if place % every == 0 and (place + every <= len(self.labels) or place == 0 or every == 1)
        ]


def axis(most: float) -> list[float]:
    """Return round values from 0 to the first at or above `most`, three to six of them."""
    if most <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(most / 4))
    step = next(factor * power for factor in (*STEPS, 10.0) if most / (factor * power) <= 5)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def short(value: float) -> str:
    """Return a number as an axis has it: 1.5k, 20, 0.4."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * (1 if size > 1e3 else 10):
            return f"{value / size:.3g}{letter}"
    return f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:.3g}"
