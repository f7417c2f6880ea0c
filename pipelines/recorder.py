"""The recorder: hears the events of a command and leaves what they took beside a run's other records."""

from collections.abc import Callable
from typing import Final

from pipelines import events
from pipelines.accounting import attempts_of, run_record
from pipelines.events import Begun, Event
from pipelines.store import Store
from schemas import layout
from schemas.run_record import to_json

STEPS: Final = {
    events.SOURCE_LISTED: "list",
    events.RUN_PLANNED: "plan",
    events.ATTEMPT_ENDED: "attempt",
    events.VERDICT_REACHED: "verdict",
    events.FILES_PUBLISHED: "publish",
    events.RUN_SEALED: "seal",
}
"""Which event tells the seconds of which step."""


class Recorder:
    """Writes `measures/<n>.json` after each attempt, and `record.json` after the seal: create-once, the first stays.

    It writes after what it tells of. So a driver that dies before it leaves no record, and a later one writes none: the
    seal says what the run holds, and the protocol asks for no more.
    """

    def __init__(self, open_store: Callable[[], Store]) -> None:
        """Take how the lake's store is opened."""
        self._open = open_store
        self._step_seconds: dict[str, float] = {}
        self._begun: Begun | None = None

    def __call__(self, event: Event) -> None:
        """Note an event."""
        if event.name in STEPS and event.seconds is not None:
            step = STEPS[event.name]
            self._step_seconds[step] = round(self._step_seconds.get(step, 0.0) + event.seconds, 3)
        if isinstance(event.subject, Begun):
            self._begun = event.subject
        elif event.name == events.ATTEMPT_ENDED and event.run and event.attempt:
            self._open().put(layout.measures_file(event.corpus, event.run, event.attempt), to_json(event.subject))
        elif event.name == events.RUN_SEALED and self._begun:
            self._record(self._begun, event)

    def _record(self, begun: Begun, event: Event) -> None:
        store, plan = self._open(), begun.plan
        record = run_record(plan, event.subject, begun.stages, attempts_of(store, plan), self._step_seconds)
        store.create(layout.record_file(plan.corpus, plan.run), to_json(record))
