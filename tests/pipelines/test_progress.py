"""What a run shows while it works: a live line on a terminal, plain lines elsewhere."""

import io
import os
import pty
import threading
from contextlib import suppress

import pyarrow as pa
import pytest

from pipelines import progress
from pipelines.metered import STAGED, spanned_seconds
from pipelines.progress import ProgressDisplay, Tally

TOTALS = {"recordings": 40, "failed": 3, "seconds": 7200.0}


def test_elsewhere_than_on_a_terminal_it_prints_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.05)
    seen, out = threading.Event(), io.StringIO()

    def read() -> dict[str, float]:
        seen.set()
        return TOTALS

    with ProgressDisplay(100, 10, read, out):
        assert seen.wait(5)
    line = out.getvalue().splitlines()[0]
    assert line.startswith("50 of 100 recordings, 2.00 h of audio, ")
    assert line.endswith(" audio s/s, 3 failed")
    assert "\x1b" not in out.getvalue()


def test_on_a_terminal_it_redraws_one_line_with_a_bar() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, ProgressDisplay(100, 10, lambda: TOTALS, terminal):
        pass
    parts = []
    with suppress(OSError):  # EIO is how the end of a terminal that was closed is told
        while part := os.read(ours, 1 << 16):  # what the system has passed on so far, which may be the beginning
            parts.append(part)
    os.close(ours)
    shown = b"".join(parts).decode()
    assert "50/100" in shown
    assert "3 failed" in shown
    assert "━" in shown


def test_it_ends_with_its_block_also_when_the_run_fails() -> None:
    display = ProgressDisplay(1, 0, lambda: TOTALS, io.StringIO())
    with pytest.raises(RuntimeError, match="boom"), display:
        raise RuntimeError("boom")
    assert not display._thread.is_alive()


def test_a_recording_that_takes_long_is_shown_as_far_as_it_got():
    tally = Tally.__ray_actor_class__(10.0)
    assert tally.totals()["seconds"] == 0
    tally.measure({STAGED: 600.0})
    tally.measure({STAGED: 300.0})
    assert tally.totals() == {"recordings": 0, "failed": 0, "seconds": 900.0}
    tally.add({"recordings": 1, "failed": 0, "seconds": 1000.0})  # its receipt: pauses at its ends count too
    assert tally.totals() == {"recordings": 1, "failed": 0, "seconds": 1000.0}


def test_segments_of_several_channels_span_a_recording_once():
    rows = [("a", 10.0, 12.0), ("a", 10.5, 15.0), ("b", 0.0, 4.0), ("c", None, None)]
    columns = ("recording_id", "start_seconds", "end_seconds")
    table = pa.table(dict(zip(columns, zip(*rows, strict=True), strict=True)))
    assert spanned_seconds(table) == 9.0
    assert spanned_seconds(table.slice(3)) == 0.0
