"""What else is in a call does not change a clip's result: alone, together and in reverse order alike."""

import numpy as np

from workers.models.model import Clip

RATE = 16_000


def odd_and_noisy_clips() -> list[Clip]:
    """Silence, a constant, a square wave, one sample, none, and noise of three lengths; all at 16 kHz."""
    numbers = np.random.default_rng(5)
    odd = [np.zeros(RATE), np.full(30_000, 0.7), np.sign(np.sin(np.arange(60_000) / 9)), np.ones(1), np.zeros(0)]
    noises = [0.1 * numbers.standard_normal(samples) for samples in (10_000, 47_000, 90_000)]
    return [Clip(np.asarray(waveform, np.float32)) for waveform in [*odd, *noises]]


def check_batch_independence(model, pooling: str, **tolerance: float) -> None:
    """Compare embeddings of a model whose results are pooled vectors."""
    clips = odd_and_noisy_clips()
    together, reverse = model.run(clips), reversed(model.run(clips[::-1]))
    for clip, result, shuffled in zip(clips, together, reverse, strict=True):
        (alone,) = model.run([clip])
        (row,) = model.rows(result, None)
        assert np.isfinite(row["vector"]).all()
        assert row["pooling"] == pooling
        np.testing.assert_allclose(result, alone, **tolerance)
        np.testing.assert_allclose(result, shuffled, **tolerance)
