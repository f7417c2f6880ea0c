"""Mel filter banks as librosa draws them: triangles straight in Hz, each of the same area."""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Scale = Literal["slaney", "htk"]

HERTZ_A_MEL: Final = 200.0 / 3  # Slaney's scale is linear up to 1 kHz ...
BREAK_HERTZ: Final = 1_000.0
BREAK_MEL: Final = BREAK_HERTZ / HERTZ_A_MEL
LOG_STEP: Final = np.log(6.4) / 27.0  # ... and logarithmic from there, 27 mel from 1 to 6.4 kHz


def hertz_to_mel(hertz: float, scale: Scale) -> float:
    """Return a frequency in Hz on Slaney's or HTK's mel scale."""
    if scale == "htk":
        return float(2595.0 * np.log10(1.0 + hertz / 700.0))
    if hertz < BREAK_HERTZ:
        return hertz / HERTZ_A_MEL
    return float(BREAK_MEL + np.log(hertz / BREAK_HERTZ) / LOG_STEP)


def mel_to_hertz(mel: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    """Return frequencies on a mel scale in Hz."""
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
    return np.where(mel < BREAK_MEL, mel * HERTZ_A_MEL, BREAK_HERTZ * np.exp(LOG_STEP * (mel - BREAK_MEL)))


def area_mel_filters(sample_rate: int, n_fft: int, n_mels: int, scale: Scale) -> NDArray[np.float32]:
    """Return the bank (n_fft // 2 + 1, n_mels) from 0 Hz to half the sampling rate, in float32.

    Triangles narrower than the FFT's bins may be empty, as in the reference. Source: librosa.filters.mel with
    norm="slaney" and htk false or true.
    """
    edges = mel_to_hertz(np.linspace(0.0, hertz_to_mel(sample_rate / 2, scale), n_mels + 2), scale)
    bins = np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.maximum(0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    return (triangles * (2.0 / (high - low))).astype(np.float32)
