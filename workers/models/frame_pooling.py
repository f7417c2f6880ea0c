"""Poolings of frames where they are, on the device: what leaves it is a vector a window, not its frames.

`workers.models.pooling.pool` is what each of them equals on all frames of a clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workers.models.speech_encoder import valid_frames


@dataclass(frozen=True, slots=True)
class FramePooling:
    """One pooling, in two steps: `read` each window's frames, `join` what was read of a clip's windows.

    pooling: one of workers.models.pooling.POOLINGS. Sums are float64, so that how many frames there are costs no
    precision.
    """

    pooling: str

    def read(self, states: torch.Tensor, counts: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return a tensor for each row of states (n, frames, dim), of which the first `counts` frames are valid.

        It holds all frames; or the first (dim,) or highest values (dim,); or the number of frames and, over them, the
        sums (dim,) and, for `mean_std`, the squared distances from the mean (dim,).
        """
        if self.pooling == "frames":
            return valid_frames(states, counts)
        if self.pooling == "first":
            return states[:, 0].float().unbind()
        padding = torch.arange(states.shape[1], device=states.device) >= counts[:, None]
        if self.pooling == "max":
            return states.float().masked_fill(padding[..., None], float("-inf")).amax(dim=1).unbind()
        return self._moments(states.double().masked_fill_(padding[..., None], 0.0), padding, counts).unbind()

    def _moments(self, states: torch.Tensor, padding: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        number = counts.double()[:, None]
        sums = states.sum(dim=1)
        if self.pooling == "mean":
            return torch.cat([number, sums], dim=1)
        states.sub_((sums / number)[:, None]).masked_fill_(padding[..., None], 0.0)
        return torch.cat([number, sums, states.square_().sum(dim=1)], dim=1)

    def join(self, windows: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Return the vector of a clip (dim,) or (2 dim,), or with `frames` its frames (n_frames, dim)."""
        if self.pooling == "frames":
            return np.concatenate(windows)
        if self.pooling == "first":
            return windows[0]
        if self.pooling == "max":
            return np.asarray(np.max(windows, axis=0), np.float32)
        if self.pooling == "mean":
            total = np.sum(windows, axis=0)
            return np.asarray(total[1:] / total[0], np.float32)
        mean, variance = joined_moments(windows)
        return np.concatenate([mean, np.sqrt(variance)]).astype(np.float32)


def joined_moments(windows: Sequence[NDArray[Any]], ddof: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance (dim,) over all frames of windows that `FramePooling("mean_std")` read.

    Source: Chan, Golub and LeVeque 1979, which adds variances without the cancellation of sums of squares.
    """
    moments = np.asarray(windows, np.float64)
    numbers = moments[:, :1]
    sums, squares = np.split(moments[:, 1:], 2, axis=1)
    mean = sums.sum(axis=0) / numbers.sum()
    between = (numbers * (sums / numbers - mean) ** 2).sum(axis=0)
    return mean, (squares.sum(axis=0) + between) / (numbers.sum() - ddof)
