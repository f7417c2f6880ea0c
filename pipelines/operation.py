"""Operation: who listens while a command carries a recipe out: its record, metrics, event log and lineage."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines import events
from pipelines.driver_meter import DriverMeter
from pipelines.errors import PhonolakeError
from pipelines.event_log import EventLog
from pipelines.events import Event, Listener, listening, tell
from pipelines.lineage import Lineage
from pipelines.lineage_transport import transport
from pipelines.recipe import Recipe
from pipelines.recorder import Recorder
from pipelines.store import Store


@contextmanager
def operating(recipe: Recipe, open_store: Callable[[], Store], log: str | None = None) -> Iterator[None]:
    """Let all of them hear what happens in the `with` block, and tell of its failure if it fails.

    `log` is where the event log goes: a file, `-` for standard error, None for nowhere.

    Raises:
        RecipeError: the log cannot be written, or the environment names no known way for lineage.
    """
    run = _LastRun()
    listeners: list[Listener] = [run, Recorder(open_store), DriverMeter()]
    if log:
        listeners.append(EventLog(log))
    if send := transport(os.environ):
        listeners.append(Lineage(recipe, send))
    with listening(*listeners):
        try:
            yield
        except BaseException as error:  # an interrupted night has failed too
            code = error.exit_code if isinstance(error, PhonolakeError) else PhonolakeError.exit_code
            said = str(error) or type(error).__name__
            tell(Event(events.RUN_FAILED, recipe.corpus, run.name, counts={"exit_code": code}, message=said))
            raise


class _LastRun:
    """Remembers which run the command is about."""

    name: str | None = None

    def __call__(self, event: Event) -> None:
        self.name = event.run or self.name
