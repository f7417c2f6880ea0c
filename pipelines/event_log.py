"""The event log: one JSON line per event, to a file or to standard error."""

import json
import sys
from pathlib import Path
from typing import Any, Final

from pipelines.errors import RecipeError
from pipelines.events import Event

STANDARD_ERROR: Final = "-"


class EventLog:
    """Appends events to a file, or writes them to standard error for `-`; a line is written whole, and at once."""

    def __init__(self, target: str) -> None:
        """Take where to write.

        Raises:
            RecipeError: the file cannot be written.
        """
        self._path = None if target == STANDARD_ERROR else Path(target)
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.open("a").close()
            except OSError as error:
                raise RecipeError(f"--log-json {target}: events cannot be written there: {error}") from None

    def __call__(self, event: Event) -> None:
        """Write an event."""
        line = json.dumps(as_line(event), ensure_ascii=False, allow_nan=False) + "\n"
        if self._path is None:
            print(line, end="", file=sys.stderr, flush=True)
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)


def as_line(event: Event) -> dict[str, Any]:
    """Return what a line holds: always the same keys, null where there is nothing to say."""
    return {
        "time": event.time.isoformat(timespec="milliseconds"),
        "event": event.name,
        "corpus": event.corpus,
        "run": event.run,
        "attempt": event.attempt,
        "seconds": None if event.seconds is None else round(event.seconds, 3),
        "counts": event.counts,
        "message": event.message,
    }
