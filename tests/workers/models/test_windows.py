"""Windows of many clips, a bounded number at once, and their running poolings."""

import numpy as np
import pytest
import torch

from workers.models.batching import Budget
from workers.models.pooling import POOLINGS, embedding_row, pool, pooled_row
from workers.models.running import RunningPool
from workers.models.windows import Piece, cut, fetched, in_batches, pool_windows

CPU = torch.device("cpu")


def batches_of(counts, limit, compute=lambda pieces: None):
    return [pieces for pieces, _ in in_batches(counts, Budget(limit), compute)]


def test_every_batch_but_the_last_is_full_and_none_mixes_up_the_order():
    assert batches_of([3, 0, 6, 1], 4) == [
        [Piece(0, 0, 3), Piece(2, 0, 1)],
        [Piece(2, 1, 4)],
        [Piece(2, 5, 1), Piece(3, 0, 1)],
    ]
    assert batches_of([], 4) == batches_of([0, 0], 4) == []


def test_a_batch_that_does_not_fit_is_halved_and_the_smaller_size_remembered():
    tried = []

    def compute(pieces):
        tried.append(sum(piece.count for piece in pieces))
        if tried[-1] > 3:
            raise torch.OutOfMemoryError

    budget = Budget(8)
    done = [piece for pieces, _ in in_batches([5, 6], budget, compute) for piece in pieces]
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1]
    assert budget.limit == 2
    windows = [(piece.owner, piece.first + step) for piece in done for step in range(piece.count)]
    assert windows == [(0, step) for step in range(5)] + [(1, step) for step in range(6)]


def test_a_single_window_that_does_not_fit_is_an_error():
    def compute(pieces):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        batches_of([3], 4, compute)


def numbers(pieces):
    """Vectors that say whose window they are."""
    return torch.tensor([[piece.owner, piece.first + step] for piece in pieces for step in range(piece.count)])


def test_vectors_come_back_in_order_with_their_pieces():
    found = list(fetched([2, 5], Budget(3), numbers))
    assert [piece for piece, _ in found] == [Piece(0, 0, 2), Piece(1, 0, 1), Piece(1, 1, 3), Piece(1, 4, 1)]
    assert (
        np.concatenate([vectors for _, vectors in found]).tolist() == numbers([Piece(0, 0, 2), Piece(1, 0, 5)]).tolist()
    )


def test_each_clip_gets_the_pool_of_its_own_windows():
    assert [vector.tolist() for vector in pool_windows([1, 4, 3], Budget(3), numbers, "mean")] == [
        [0, 0],
        [1, 1.5],
        [2, 1],
    ]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("cuts", [[], [1], [1, 2, 7], [30]])
def test_a_running_pool_equals_the_pool_of_all_frames(pooling, cuts):
    frames = (1_000 + np.random.default_rng(0).standard_normal((40, 5))).astype(np.float32)
    running = RunningPool(pooling)
    for part in np.split(frames, cuts):
        running.add(part)
    result = running.result()
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.reshape(-1), pool(frames, pooling), rtol=1e-6)
    row, expected = pooled_row(result, pooling, "layer", 0.5), embedding_row(frames, pooling, "layer", 0.5)
    assert {**row, "vector": None} == {**expected, "vector": None}


def test_a_pool_keeps_nothing_of_the_arrays_it_was_given():
    for pooling in POOLINGS:
        frames = np.ones((3, 2), np.float32)
        running = RunningPool(pooling)
        running.add(frames)
        before = running.result().copy()
        frames[:] = 7
        assert np.array_equal(running.result(), before)


@pytest.mark.parametrize("hop", [1, 3, 4, 9])
@pytest.mark.parametrize("before", [0, 2])
def test_windows_are_cut_where_they_lie_with_zeros_around(hop, before):
    waveforms = [np.arange(1, n + 1, dtype=np.float32) for n in (11, 0, 1, 5)]
    pieces = [Piece(0, 1, 3), Piece(0, 0, 2), Piece(1, 0, 1), Piece(2, 0, 1), Piece(3, 4, 2)]
    found = cut(waveforms, pieces, 4, hop, before, CPU)
    expected = []
    for piece in pieces:
        padded = np.concatenate([np.zeros(before), waveforms[piece.owner], np.zeros(100)])
        expected += [padded[hop * window :][:4] for window in range(piece.first, piece.first + piece.count)]
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), np.array(expected))
