"""Numbers as people read them."""

import datetime
from collections.abc import Callable, Sequence


def count(value: int) -> str:
    """Return a count: 12,345."""
    return f"{value:,}"


def in_hours(values: Sequence[float | None]) -> tuple[str, Callable[[float], str]]:
    """Return the unit that suits hours of this size, and what writes each of them in it, all with as many decimals."""
    most = max((value for value in values if value is not None), default=0.0)
    if most < 1:
        return "Minutes", lambda hours: f"{hours * 60:,.1f}"
    return "Hours", (lambda hours: f"{hours:,.0f}") if most >= 1000 else (lambda hours: f"{hours:,.1f}")


def length(value: float) -> str:
    """Return seconds as a histogram's edge: 30 s, 5 min, 2 h."""
    if value < 60:
        return f"{value:g} s"
    return f"{value / 60:g} min" if value < 3600 else f"{value / 3600:g} h"


def seconds(value: float) -> str:
    """Return how long something took: 42 s, 3 min 20 s, 5 h 12 min."""
    whole = round(value)
    if whole < 60:
        return f"{value:.0f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def night(day: datetime.date, unit: str) -> str:
    """Return a day, week or month as a chart's label."""
    return f"{day:%b %Y}" if unit == "month" else f"{day:%-d %b}"


def size(size_bytes: float) -> str:
    """Return a size: 14 kB, 4.1 MB, 12.0 GB, 3.5 TB."""
    for unit, letter in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:,.1f} {letter}"
    return f"{size_bytes / 1e3:.0f} kB"
