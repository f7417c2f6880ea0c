"""How loud segments are, in dB below full scale, read off their log-mel spectrograms.

The lake keeps no level column and the samples are gone, but a log-mel spectrogram with unit-area bands still knows the
power. The triangles of neighbouring bands add up to one, and each was divided by half its width in Hz; so by Parseval
a frame's mean square is the sum over bands of power x width, over (FFT length x sum of the squared window).
"""

import math
from typing import Any, Final

from workers.spectrogram_settings import DEFAULT_BINS, SpectrogramSettings

HZ_PER_MEL: Final = 200 / 3  # Slaney's scale: linear up to 1000 Hz, then 27 steps for each factor of 6.4
LOG_FROM_HZ: Final = 1000.0
MELS_PER_LOG: Final = 27 / math.log(6.4)
HANN_SQUARED: Final = 3 / 8  # mean of a squared Hann window


def power_weights(settings: dict[str, Any], sample_rate: int) -> list[float] | None:
    """Return what each band of a recipe's log-mel counts for in a frame's mean square; None where it cannot be told.

    Whisper's preset scales every clip by its loudest band, so its level is lost.
    """
    chosen = SpectrogramSettings(**settings)
    if chosen.kind != "log_mel" or chosen.preset:
        return None
    bins = chosen.n_bins or DEFAULT_BINS["log_mel"]
    low, high = _mel(chosen.f_min), _mel(chosen.f_max or sample_rate / 2)
    edges = [_hertz(low + (high - low) * step / (bins + 1)) for step in range(bins + 2)]
    window = round(chosen.window_seconds * sample_rate) * HANN_SQUARED
    return [(edges[band + 2] - edges[band]) / chosen.fft_length(sample_rate) / window for band in range(bins)]


def _mel(hertz: float) -> float:
    if hertz < LOG_FROM_HZ:
        return hertz / HZ_PER_MEL
    return LOG_FROM_HZ / HZ_PER_MEL + math.log(hertz / LOG_FROM_HZ) * MELS_PER_LOG


def _hertz(mel: float) -> float:
    bend = LOG_FROM_HZ / HZ_PER_MEL
    return mel * HZ_PER_MEL if mel < bend else LOG_FROM_HZ * math.exp((mel - bend) / MELS_PER_LOG)
