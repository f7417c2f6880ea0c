"""Windows together give each frame of a clip once."""

import numpy as np
import pytest
import torch

from workers.models.speech_windows import FrameGrid, windows

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
GRID = FrameGrid.of(KERNELS, STRIDES)


def test_the_usual_convolutions_see_25_ms_every_20_ms():
    assert FrameGrid(400, 320) == GRID


@pytest.mark.parametrize("samples", [400, 719, 720, 721, 15_999, 16_000, 48_123])
def test_frames_are_as_many_as_convolutions_give(samples):
    features = torch.zeros(1, 1, samples)
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        features = torch.nn.functional.conv1d(features, torch.zeros(1, 1, kernel), stride=stride)
    assert GRID.frames(samples) == features.shape[2]


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 16_000, 160_000])
def test_a_clip_that_fits_is_one_window(samples):
    (window,) = windows(3, samples, GRID, 160_000)
    assert (window.owner, window.start, window.context) == (3, 0, 0)
    assert (window.samples, window.frames) == (max(samples, 400), GRID.frames(samples))


@pytest.mark.parametrize("longest", [16_000, 32_000, 100_001])
@pytest.mark.parametrize("samples", [100_400, 160_001, 999_999, 16_000 * 3_600])
def test_each_frame_of_a_long_clip_is_given_once_and_in_its_place(samples, longest):
    cut = list(windows(0, samples, GRID, longest))
    starts = [one.start // GRID.hop + one.context for one in cut]
    assert starts == [0, *np.cumsum([one.frames for one in cut])[:-1]]
    assert sum(one.frames for one in cut) == GRID.frames(samples)
    for one in cut:
        assert one.start % GRID.hop == 0
        assert one.start + one.samples <= samples
        assert one.samples <= longest
        assert one.context + one.frames <= GRID.frames(one.samples)
    assert max(one.frames for one in cut) - min(one.frames for one in cut) <= 1


def test_windows_see_their_neighbours_where_the_clip_goes_on():
    cut = list(windows(0, 200_000, GRID, 32_000))
    margin = GRID.frames(32_000) // 12
    assert [one.context for one in cut] == [0, *[margin] * (len(cut) - 1)]
    after = [GRID.frames(one.samples) - one.context - one.frames for one in cut]
    assert after == [*[margin] * (len(cut) - 1), 0]
