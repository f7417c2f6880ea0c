"""The enhancers there are: what each is called, what weights it has, and which class runs it.

Classes are imported by who loads them: a recipe without noise reduction waits for none.
"""

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from workers.packaged import PACKAGED
from workers.weights import ModelError, resolve


class Enhancer(Protocol):
    """Takes the noise out of segments of one sampling rate, each by itself: no state goes from one to the next."""

    def enhance(self, pcm: np.ndarray) -> np.ndarray:
        """Return mono int16 samples, shape (n,), enhanced: new memory, as many, in time with those given."""


def _deepfilternet(sample_rate: int) -> Enhancer:
    from workers.enhancers.deepfilternet import DeepFilterNet

    return DeepFilterNet(resolve("deepfilternet").folder, sample_rate)


def _spectral_gate(sample_rate: int) -> Enhancer:
    from workers.enhancers.spectral_gate import SpectralGate

    return SpectralGate(sample_rate)


ENHANCERS: Final[dict[str, Callable[[int], Enhancer]]] = {
    "deepfilternet": _deepfilternet,
    "spectral-gate": _spectral_gate,
}
"""What makes an enhancer for a sampling rate in Hz, by the name in a recipe."""


def digest_of(model: str) -> str:
    """Return the digest of an enhancer's weights, which a stage's fingerprint covers; empty where it has none.

    Raises:
        ModelError: nothing has this name, or its weights are not to be had.
    """
    if model not in ENHANCERS:
        raise ModelError(f"enhance: there is no model {model}; known are {', '.join(sorted(ENHANCERS))}")
    return resolve(model).digest if model in PACKAGED else ""
