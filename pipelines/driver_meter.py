"""The driver's own metrics: what its events tell, as counters and gauges of its process."""

import os
from datetime import datetime
from typing import Final

import ray

from pipelines import events
from pipelines.cluster import connect
from pipelines.events import Event
from pipelines.meter import Key, Meter, key, set_gauge
from pipelines.recorder import STEPS
from schemas.records import Seal

ENDS: Final = {events.RUN_SEALED: "sealed", events.NOTHING_NEW: "nothing_new", events.RUN_FAILED: "failed"}


class DriverMeter:
    """Counts seconds of steps, published bytes and ends of runs; what comes before Ray is there waits for it."""

    def __init__(self) -> None:
        self._waiting: dict[Key, float] = {}
        self._over_budget = False

    def __call__(self, event: Event) -> None:
        """Count an event."""
        self._over_budget |= event.name == events.BUDGET_EXCEEDED
        if event.name in STEPS and event.seconds is not None:
            self._count(key("step_seconds", step=STEPS[event.name]), event.seconds)
        if event.name in ENDS:
            outcome = "over_budget" if self._over_budget and event.name == events.RUN_FAILED else ENDS[event.name]
            self._count(key("runs", outcome=outcome), 1)
        for file in event.subject.files if isinstance(event.subject, Seal) else ():
            self._count(key("published_bytes", table=file.table), file.size_bytes)
        if event.name == events.NOTHING_NEW and os.environ.get("RAY_ADDRESS"):
            connect()  # a quiet night is a good night, and a cluster's metrics should say so
        self._give(event)

    def _count(self, name: Key, value: float) -> None:
        self._waiting[name] = self._waiting.get(name, 0.0) + value

    def _give(self, event: Event) -> None:
        """Hand over what waits, and set the gauges that an event bears on."""
        if not ray.is_initialized():
            return
        Meter(event.corpus).add(self._waiting)
        self._waiting.clear()
        if isinstance(event.subject, events.Begun):
            plan = event.subject.plan
            set_gauge("planned_recordings", event.corpus, plan.recordings)
            set_gauge("planned_timestamp_seconds", event.corpus, datetime.fromisoformat(plan.planned_at).timestamp())
        if event.name in (events.RUN_SEALED, events.NOTHING_NEW):
            set_gauge("success_timestamp_seconds", event.corpus, event.time.timestamp())
