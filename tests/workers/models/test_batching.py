"""Clips of like length go together, none twice, and a device that runs out of memory gets half as much."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.models.batching import Budget, batches, padded_length, run_batched

lengths = st.lists(st.integers(0, 5000), max_size=60)


@given(st.integers(0, 10**7), st.integers(1, 5000))
def test_a_clip_is_padded_by_a_quarter_at_most(length, shortest):
    padded = padded_length(length, shortest)
    assert max(length, shortest) <= padded <= max(shortest, 1.25 * length + 1)


def test_lengths_of_four_octaves_are_padded_to_few_shapes():
    assert len({padded_length(length, 1000) for length in range(1000, 16_001)}) <= 17


@given(lengths, st.floats(1, 20_000))
def test_every_clip_is_in_one_batch_and_no_batch_of_several_is_beyond_the_budget(lengths, limit):
    found = list(batches(lengths, limit, 100))
    assert sorted(position for together, _ in found for position in together) == list(range(len(lengths)))
    for together, width in found:
        assert all(lengths[position] <= width for position in together)
        assert len(together) == 1 or width * len(together) <= limit


@given(lengths, st.floats(1, 20_000))
def test_without_steps_clips_are_padded_to_the_longest_of_their_batch(lengths, limit):
    for together, width in batches(lengths, limit, 100, stepped=False):
        assert width == max(100, *(lengths[position] for position in together))


@given(lengths, st.floats(1, 20_000))
def test_results_come_in_the_order_of_the_clips(lengths, limit):
    heard = run_batched(lengths, Budget(limit), lambda together, width: [(one, lengths[one]) for one in together])
    assert heard == list(enumerate(lengths))


def test_a_full_device_halves_the_budget_for_good():
    sizes = []

    def compute(together, width):
        if width * len(together) > 400:
            raise torch.OutOfMemoryError("full")
        sizes.append(len(together))
        return together

    budget = Budget(1600)
    assert run_batched([100] * 16, budget, compute, shortest=100) == list(range(16))
    assert budget.limit == 400
    assert len(sizes) == 4
    run_batched([100] * 16, budget, compute, shortest=100)
    assert sizes == [4] * 8


def test_a_clip_that_is_too_much_alone_is_an_error():
    def compute(together, width):
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        run_batched([100, 100], Budget(1000), compute)
