"""Samples between forms: from one sampling rate to another, and from floats to int16."""

from collections.abc import Callable
from typing import Final

import numpy as np
import soxr

INT16_SCALE: Final = 32768.0
INT16_BYTES: Final = 2
FLOAT32_BYTES: Final = 4


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Return float samples in [-1, 1) as int16: rounded, clipped, NaN as 0; exact for what was int16 before.

    The result is C-contiguous and of the shape of `samples`.
    """
    return to_int16_and_tell(samples)[0]


def to_int16_and_tell(samples: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return what `to_int16` does, and whether all samples are finite numbers."""
    scaled = np.multiply(samples, np.float32(INT16_SCALE), order="C")
    finite = _all_finite(scaled)
    if not finite:
        scaled = np.nan_to_num(scaled, nan=0.0)
    np.rint(scaled, out=scaled)
    rounded: np.ndarray = np.clip(scaled, -32768, 32767, out=scaled).astype(np.int16)
    return rounded, finite


def _all_finite(samples: np.ndarray) -> bool:
    """Whether float samples, C-contiguous, are all finite numbers: of sane ones, one pass of BLAS tells."""
    flat = samples.reshape(-1)
    return bool(np.isfinite(np.dot(flat, flat)) or np.isfinite(flat).all())


def resampler(source: int, target: int) -> Callable[[np.ndarray, bool], np.ndarray]:
    """Return a function of a block (float32, shape (n,) or (n, channels)) and whether it is the last; soxr HQ.

    What it returns, put together, does not depend on the blocks. A signal of one block needs no stream (faster).
    """
    if source == target:
        return lambda block, last: block
    stream: soxr.ResampleStream | None = None

    def resample(block: np.ndarray, last: bool) -> np.ndarray:
        nonlocal stream
        block = np.ascontiguousarray(block)
        if stream is None and last:
            once: np.ndarray = soxr.resample(block, source, target, quality="HQ")  # bit for bit what the stream gives
            return once
        channels = 1 if block.ndim == 1 else block.shape[1]
        stream = stream or soxr.ResampleStream(source, target, channels, dtype="float32", quality="HQ")
        chunk: np.ndarray = stream.resample_chunk(block, last=last)
        return chunk

    return resample
