"""Pooling of frames that come piece by piece, in memory that does not grow with them (but for `frames`)."""

import numpy as np

Frames = np.ndarray


class RunningPool:
    """Pools the frames of one clip as workers.models.pooling.pool does, without ever having all of them.

    Means and deviations are in float64 and merged piece by piece. Source: Chan, Golub and LeVeque (1979), Updating
    formulae and a pairwise algorithm for computing sample variances.
    """

    def __init__(self, pooling: str) -> None:
        self.pooling = pooling
        self._kept: list[np.ndarray] = []
        self._count = 0
        self._mean: np.ndarray = np.zeros(())
        self._squares: np.ndarray = np.zeros(())  # sum of squared deviations from the mean

    def add(self, frames: Frames) -> None:
        """Take the next frames, shape (n, dim), n at least 1."""
        if self.pooling == "frames":
            self._kept.append(np.array(frames, np.float32))
        elif self.pooling == "first":
            self._kept = self._kept or [np.array(frames[0], np.float32)]
        elif self.pooling == "max":
            self._kept = [np.maximum.reduce([*self._kept, frames.max(axis=0)]).astype(np.float32)]
        else:
            self._merge(frames)

    def _merge(self, frames: Frames) -> None:
        mean = frames.mean(axis=0, dtype=np.float64)
        count = self._count + len(frames)
        shift = mean - self._mean
        if self.pooling == "mean_std":
            between = shift * shift * (self._count * len(frames) / count)
            self._squares = self._squares + frames.var(axis=0, dtype=np.float64) * len(frames) + between
        self._mean = self._mean + shift * (len(frames) / count)
        self._count = count

    def result(self) -> np.ndarray:
        """Return float32 of shape (dim,), (2 dim,) for `mean_std`, or (n, dim) for `frames`."""
        if self.pooling == "frames":
            return np.concatenate(self._kept)
        if self.pooling in ("first", "max"):
            return self._kept[0]
        if self.pooling == "mean_std":
            return np.concatenate([self._mean, np.sqrt(self._squares / self._count)]).astype(np.float32)
        return self._mean.astype(np.float32)
