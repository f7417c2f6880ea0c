"""Clips cut into windows, and what is computed of them brought back to its clip."""

import torch

from workers.models.batching import Budget
from workers.models.fixed_windows import Window, cut, run_windows


def test_windows_follow_each_other_to_the_end_of_a_clip():
    assert cut([25, 10, 0], 10) == [
        *(Window(0, 0, 10), Window(0, 10, 10), Window(0, 20, 5)),
        Window(1, 0, 10),
        Window(2, 0, 0),
    ]


def test_results_come_back_to_their_clip_in_order():
    windows = cut([25, 0, 31], 10)
    seen = []

    def compute(chosen):
        seen.append(len(chosen))
        return [(one.owner, one.start) for one in chosen]

    assert run_windows(windows, Budget(3), compute) == [
        [(0, 0), (0, 10), (0, 20)],
        [(1, 0)],
        [(2, 0), (2, 10), (2, 20), (2, 30)],
    ]
    assert seen == [3, 3, 2]
    assert run_windows([], Budget(3), compute) == []


def test_a_device_that_is_full_gets_half_from_then_on():
    budget = Budget(4)

    def compute(chosen):
        if len(chosen) > 2:
            raise torch.OutOfMemoryError("full")
        return [one.start for one in chosen]

    assert run_windows(cut([40], 10), budget, compute) == [[0, 10, 20, 30]]
    assert budget.limit == 2
