"""Dynamic time warping of tokens onto frames. Source: openai/whisper `timing.py`, `dtw_cpu`."""

import numpy as np


def jump_positions(costs: np.ndarray) -> np.ndarray:
    """Return the frame where each token begins on the cheapest path through `costs`, (tokens, frames): (tokens,).

    The path goes from the first token and frame to the last and takes steps of one token, one frame or both; the
    first token always begins at 0.
    """
    steps = _steps(costs)
    begins = np.zeros(len(costs), np.int64)
    token, frame = costs.shape
    while token > 0:
        begins[token - 1] = max(frame - 1, 0)
        step = steps[token, frame] if frame else 1
        frame -= int(step != 1)
        token -= int(step != 2)
    return begins


def _steps(costs: np.ndarray) -> np.ndarray:
    """Return how the cheapest path reaches each place, (tokens + 1, frames + 1): 0 both, 1 a token, 2 a frame.

    Places whose indices add up to the same number hang only on those of the two sums before: they are computed at
    once. In a flat array they are `frames` apart.
    """
    tokens, frames = costs.shape
    width = frames + 1
    local = np.zeros((tokens + 1, width), np.float32)
    local[1:, 1:] = costs
    total = np.full((tokens + 1) * width, np.inf, np.float32)
    total[0] = 0
    steps = np.full((tokens + 1) * width, 2, np.int8)
    for diagonal in range(2, tokens + frames + 1):
        first, last = max(1, diagonal - frames), min(tokens, diagonal - 1)
        here = slice(first * frames + diagonal, last * frames + diagonal + 1, frames)
        both, token, frame = (_before(here, by) for by in (width + 1, width, 1))
        cost_both, cost_token, cost_frame = total[both], total[token], total[frame]
        take_both = (cost_both < cost_token) & (cost_both < cost_frame)
        take_token = (cost_token < cost_both) & (cost_token < cost_frame)
        steps[here] = np.where(take_both, 0, np.where(take_token, 1, 2))
        best = np.where(take_both, cost_both, np.where(take_token, cost_token, cost_frame))
        total[here] = local.ravel()[here] + best
    return steps.reshape(tokens + 1, width)


def _before(places: slice, by: int) -> slice:
    return slice(places.start - by, places.stop - by, places.step)
