"""From scores to rows of the table `tags`."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def best_tags(scores: np.ndarray, labels: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """Return the `top_k` best of scores, shape (n_labels,), best first; the first label wins a draw."""
    best = np.argsort(-scores, kind="stable")[:top_k]
    return [{"label": labels[number], "score": float(scores[number])} for number in best]
