"""One check: how it went, what was seen, and what to do about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found; `do` is the next step where it is not ok."""

    name: str
    state: State
    said: str
    do: str = ""


def ok(name: str, said: str) -> Check:
    """Return that all is well."""
    return Check(name, "ok", said)


def warning(name: str, said: str, do: str) -> Check:
    """Return what will work, but slowly or not for long."""
    return Check(name, "warning", said, do)


def failed(name: str, said: object, do: str) -> Check:
    """Return what a run would die of."""
    return Check(name, "failed", " ".join(str(said).split()), do)


def tried(name: str, act: Callable[[], Check], do: str) -> Check:
    """Carry out a check; whatever it raises is what it found."""
    try:
        return act()
    except Exception as error:  # a doctor that dies of what it finds helps nobody
        return failed(name, error if str(error) else type(error).__name__, do)


Checks = Iterator[Check]
