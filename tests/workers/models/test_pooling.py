"""One vector of many, and all of them where that is asked for."""

import numpy as np
import pytest

from workers.models.pooling import embedding_row, pool

FRAMES = np.array([[1.0, 5.0], [3.0, -5.0], [5.0, 3.0]], np.float32)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [3.0, 1.0]),
        ("max", [5.0, 5.0]),
        ("first", [1.0, 5.0]),
        ("mean_std", [3.0, 1.0, np.sqrt(8 / 3), np.sqrt(56 / 3)]),
        ("frames", [1.0, 5.0, 3.0, -5.0, 5.0, 3.0]),
    ],
)
def test_a_pooling_gives(pooling, expected):
    found = pool(FRAMES, pooling)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_only_frames_say_how_many_and_how_far_apart():
    assert embedding_row(FRAMES, "frames", "6", 0.02) | {"vector": None} == {
        "layer": "6",
        "pooling": "frames",
        "dim": 2,
        "vector": None,
        "n_frames": 3,
        "hop_seconds": 0.02,
    }
    assert embedding_row(FRAMES, "mean_std", "6", 0.02).keys() == {"layer", "pooling", "dim", "vector"}
