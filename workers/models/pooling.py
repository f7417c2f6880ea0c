"""From frame or patch vectors to one vector a segment, and to a row of the table `embeddings`."""

from typing import Any, Final

import numpy as np

POOLINGS: Final = ("mean", "mean_std", "max", "first", "frames")


def pool(frames: np.ndarray, pooling: str, weights: np.ndarray | None = None) -> np.ndarray:
    """Return one vector of frames, shape (n, dim), n at least 1: float32 of shape (dim,).

    `mean_std` is the mean with the population standard deviation behind it, shape (2 dim,), as x-vectors pool;
    `frames` keeps all, row-major, shape (n dim,). Sums are in float64, so that how many frames there are costs no
    precision. `weights`, shape (n,), are what each counts in a mean or deviation; all alike where not given.
    """
    if pooling == "frames":
        return np.ascontiguousarray(frames, np.float32).reshape(-1)
    weights = np.ones(len(frames)) if weights is None else weights.astype(np.float64)
    if pooling == "first":
        pooled = frames[0]
    elif pooling == "max":
        pooled = frames.max(axis=0)
    else:
        pooled = np.average(frames, axis=0, weights=weights)
    if pooling == "mean_std":
        variance = np.average((frames - pooled) ** 2, axis=0, weights=weights)
        pooled = np.concatenate([pooled, np.sqrt(variance)])
    return np.asarray(pooled, np.float32)


def embedding_row(
    frames: np.ndarray, pooling: str, layer: str, hop_seconds: float | None, weights: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the row of a segment whose model gave `frames`, shape (n, dim), one every `hop_seconds`."""
    pooled = pool(frames, pooling, weights)
    return pooled_row(pooled.reshape(frames.shape) if pooling == "frames" else pooled, pooling, layer, hop_seconds)


def pooled_row(pooled: np.ndarray, pooling: str, layer: str, hop_seconds: float | None = None) -> dict[str, Any]:
    """Return the row of a segment whose frames were pooled where they are: (dim,), or (n, dim) where they were not."""
    vector = np.ascontiguousarray(pooled, np.float32).reshape(-1)
    row: dict[str, Any] = {"layer": layer, "pooling": pooling, "dim": pooled.shape[-1], "vector": vector}
    return row | ({"n_frames": len(pooled), "hop_seconds": hop_seconds} if pooling == "frames" else {})
