"""What a run shows while it works: a live line on a terminal, plain lines elsewhere."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, TextIO

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipelines.meter import Key
from pipelines.metered import STAGED
from workers.tabulate import merge_totals

LIVE_SECONDS: Final = 0.5
PLAIN_SECONDS: Final = 15.0


@ray.remote(num_cpus=0)
class Tally:
    """Counts what receipts tell, while they are written; a repeated task counts twice."""

    def __init__(self, allowed_failures: float) -> None:
        self._totals, self._allowed = merge_totals([]), allowed_failures
        self._measures: dict[Key, float] = {}

    def add(self, counts: dict[str, float]) -> bool:
        """Add one receipt's totals; return whether more failed by now than is allowed."""
        self._totals = merge_totals([self._totals, counts])
        return self._totals["failed"] > self._allowed

    def measure(self, measures: dict[Key, float]) -> None:
        """Add measures of pipelines.meter; a call that nobody waits for."""
        for name, value in measures.items():
            self._measures[name] = self._measures.get(name, 0.0) + value

    def measures(self) -> dict[Key, float]:
        """Return what was measured so far."""
        return self._measures

    def totals(self) -> dict[str, float]:
        """Return what was counted so far; of a recording that takes long, as far as it was staged."""
        return {**self._totals, "seconds": max(self._totals["seconds"], self._measures.get(STAGED, 0.0))}


class ProgressDisplay:
    """Shows recordings, audio hours, audio seconds per second and failures while its `with` block runs."""

    def __init__(
        self, planned: int, done: int, read: Callable[[], dict[str, float]], stream: TextIO = sys.stderr
    ) -> None:
        """Take the number of planned recordings, of those done before, and where to read totals from."""
        self._planned, self._done, self._read, self._stream = planned, done, read, stream
        self._last = merge_totals([])
        self._started = time.monotonic()
        self._stopped = threading.Event()
        show = self._show_live if stream.isatty() else self._show_plain
        self._thread = threading.Thread(target=show, daemon=True)

    def __enter__(self) -> "ProgressDisplay":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _totals(self) -> dict[str, float]:
        """Return what was counted; a cluster that does not answer is the run's trouble, not the display's."""
        with contextlib.suppress(Exception):
            self._last = self._read()
        return self._last

    def line(self, totals: dict[str, float]) -> str:
        """Return the totals as one line."""
        rate = totals["seconds"] / max(time.monotonic() - self._started, 1e-9)
        return f"{totals['seconds'] / 3600:.2f} h of audio, {rate:.0f} audio s/s, {int(totals['failed'])} failed"

    def _show_live(self) -> None:
        columns = (TextColumn("recordings"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[line]}"))
        with Progress(*columns, TimeElapsedColumn(), console=Console(file=self._stream)) as bar:
            task = bar.add_task("", total=self._planned, completed=self._done, line="starting")
            while not self._stopped.wait(LIVE_SECONDS):
                self._update(bar, task)
            self._update(bar, task)

    def _update(self, bar: Progress, task: Any) -> None:
        totals = self._totals()
        bar.update(task, completed=self._done + totals["recordings"], line=self.line(totals))

    def _show_plain(self) -> None:
        while not self._stopped.wait(PLAIN_SECONDS):
            totals = self._totals()
            recordings = self._done + int(totals["recordings"])
            print(f"{recordings} of {self._planned} recordings, {self.line(totals)}", file=self._stream, flush=True)
