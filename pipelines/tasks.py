"""The tasks of an attempt: consecutive units of a plan, packed to a few seconds of work each."""

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from schemas.records import Plan

TASK_BYTES: Final = 112 << 20  # of source objects: an hour at 16 kHz and 16 bits; 3 s of work and more anyway
TASK_ROWS: Final = 1280
TASKS_PER_CORE: Final = 2  # at least, where the plan has the units for it; more would make small fragments


@dataclass(frozen=True, slots=True)
class Task:
    """What one read task does: consecutive rows of the plan, from `first`, but for those that are done already.

    Attributes:
        first: the first row.
        rows: how many rows each of its units has.
        done: the positions in each unit that are done.
    """

    first: int
    rows: tuple[int, ...]
    done: tuple[Collection[int], ...]


def pack_tasks(plan: Plan, done: dict[int, Collection[int]], cores: float) -> list[Task]:
    """Gather consecutive units into tasks of a few seconds of work each; `done` has the finished rows of each unit.

    There are as many tasks as give each core the same number, of about the same work, so that none waits at the end.
    """
    starts = list(itertools.accumulate(plan.unit_rows, initial=0))
    left = [unit for unit, rows in enumerate(plan.unit_rows) if len(done.get(unit, ())) < rows]
    work = [max(plan.unit_rows[unit] / TASK_ROWS, plan.unit_bytes[unit] / TASK_BYTES) for unit in left]
    whole = max(1, round(cores))
    total = sum(work)
    count = whole * max(TASKS_PER_CORE, math.ceil(total / whole))
    groups: dict[tuple[int, int], list[int]] = {}  # by the share of all work that they lie in, and what they follow
    before = gaps = 0
    for unit, end, own in zip(left, itertools.accumulate(work), work, strict=True):
        gaps, before = gaps + (unit != before + 1), unit
        share = int((end - own / 2) / total * count)
        groups.setdefault((share, gaps), []).append(unit)
    return [
        Task(
            starts[group[0]],
            tuple(plan.unit_rows[unit] for unit in group),
            tuple(done.get(unit, frozenset()) for unit in group),
        )
        for group in groups.values()
    ]
