"""What happens to a run, told to whoever listens: logs, lineage, metrics, the run's record.

The protocol tells and never asks: a listener that fails costs a line on standard error, and nothing else.
docs/operation.md lists the events, whose names and fields stay.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from pipelines.stages import Stage
from schemas.records import Plan

logger = logging.getLogger(__name__)

SOURCE_LISTED: Final = "source_listed"
NOTHING_NEW: Final = "nothing_new"
RUN_PLANNED: Final = "run_planned"
RUN_RESUMED: Final = "run_resumed"
ATTEMPT_STARTED: Final = "attempt_started"
ATTEMPT_ENDED: Final = "attempt_ended"
BUDGET_EXCEEDED: Final = "budget_exceeded"
VERDICT_REACHED: Final = "verdict_reached"
FILES_PUBLISHED: Final = "files_published"
RUN_SEALED: Final = "run_sealed"
RUN_FAILED: Final = "run_failed"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        name: one of the names above.
        corpus: whose run it is.
        run: its number; None before there is one.
        attempt: which attempt it is about, if it is about one.
        seconds: how long it took, if it took any.
        counts: numbers by name.
        message: text, if there is any to say.
        subject: the record that it is about, for listeners in this process; not logged.
        time: when it was told.
    """

    name: str
    corpus: str
    run: str | None = None
    attempt: int | None = None
    seconds: float | None = None
    counts: dict[str, float] = field(default_factory=dict)
    message: str | None = None
    subject: Any = None
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Begun:
    """What a run that is planned or resumed is about: the subject of these two events."""

    plan: Plan
    stages: list[Stage]


class Stopwatch:
    """Counts seconds from when it is made."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long ago that is."""
        return time.monotonic() - self._begun


Listener = Callable[[Event], None]

_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(*listeners: Listener) -> Iterator[None]:
    """Let listeners hear what happens in the `with` block, in their order."""
    token = _LISTENERS.set((*_LISTENERS.get(), *listeners))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


def tell(event: Event) -> None:
    """Tell everyone who listens."""
    for listener in _LISTENERS.get():
        try:
            listener(event)
        except Exception as error:  # a night is not ended by who watches it
            logger.warning("%s was not noted: %s: %s", event.name, type(error).__name__, error)


def tell_of(plan: Plan, name: str, seconds: float | None = None, subject: Any = None, **counts: float) -> None:
    """Tell of something that happened to a run."""
    tell(Event(name, plan.corpus, plan.run, seconds=seconds, counts=counts, subject=subject))
