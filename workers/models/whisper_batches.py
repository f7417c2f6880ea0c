"""Windows and packed windows in batches that fit the device, for whichever engine reads them."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from workers.models.batching import Budget, run_batched
from workers.models.transcript import WindowText
from workers.models.whisper_packing import WINDOW_SAMPLES, Layout, Sound, lay_out
from workers.models.whisper_windows import Window, together

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

ReadPacked = Callable[[Sequence[Layout], Sequence[Sound], Sequence[str | None]], list[dict[int, WindowText]]]
"""Reads windows that clips share; returns for each the texts that look right, by the clips' positions in the sounds."""


def in_batches(
    windows: Sequence[Window], budget: Budget, read: Callable[[list[Window]], Sequence[_Result]]
) -> list[_Result]:
    """Read windows in batches; return the results in their order."""
    return _run(windows, [len(window.sound.samples) for window in windows], budget, read)


def packed(windows: Sequence[Window], budget: Budget, read: ReadPacked) -> dict[int, WindowText]:
    """Read clips that share windows; return the texts that look right, by position in `windows`."""
    sounds = [window.sound for window in windows]
    layouts = [layout for group in together(windows) for layout in lay_out(sounds, group) if len(layout) > 1]
    lengths = [sum(len(sounds[place.clip].samples) for place in layout) for layout in layouts]

    def read_some(some: list[Layout]) -> list[dict[int, WindowText]]:
        return read(some, sounds, [windows[layout[0].clip].language for layout in some])

    found = _run(layouts, lengths, budget, read_some)
    return {position: text for texts in found for position, text in texts.items()}


def _run(
    items: Sequence[_Item], lengths: Sequence[int], budget: Budget, read: Callable[[list[_Item]], Sequence[_Result]]
) -> list[_Result]:
    """Read items in batches of those of like length: they hold about as many tokens, and end at about one step."""
    return run_batched(lengths, budget, lambda some, _: read([items[one] for one in some]), WINDOW_SAMPLES)
