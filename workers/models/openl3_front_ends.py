"""The spectrograms that OpenL3 was given over its releases; the weights stayed, the embeddings did not.

- `kapre`: openl3 0.4, its default: Slaney's mel of the magnitude, frames aligned left.
- `librosa`: openl3 0.4 with frontend="librosa": the same bands, frames centred (zeros around).
- `kapre-0.1`: openl3 up to 0.3.1, and what the weights were trained on: HTK's mel of the power, then the square root;
  982 zeros on both sides.

The linear spectrogram is one and the same in all three. Sources: marl/openl3 0.4.2 openl3/core.py and models.py,
kapre 0.3 composed.py, kapre 0.1.4 time_frequency.py.
"""

from functools import lru_cache
from typing import Final

import torch
from torch.nn import functional

from workers.models.mel import area_mel_filters
from workers.models.openl3_settings import SAMPLE_RATE, WINDOW_SAMPLES

HOP_SAMPLES: Final = 242
LINEAR_FFT: Final = 512
MEL_FFT: Final = 2_048
MEL_FRAMES: Final = 199
ZEROS_BEFORE: Final = {"kapre": 0, "librosa": MEL_FFT // 2, "kapre-0.1": 982}

AMPLITUDE_FLOOR: Final = 1e-10
DYNAMIC_RANGE: Final = 80.0  # dB


def openl3_spectrogram(windows: torch.Tensor, input_repr: str, front_end: str) -> torch.Tensor:
    """Return what the network sees of windows (n, 48000): (n, bins, frames) in dB below each window's own maximum.

    (257, 197) for `linear`, (128, 199) and (256, 199) for the mel ones. Windows are float32 at 48 kHz in [-1, 1].
    """
    if input_repr == "linear":
        return _decibels(_magnitudes(windows, LINEAR_FFT))
    before = ZEROS_BEFORE[front_end]
    after = (MEL_FRAMES - 1) * HOP_SAMPLES + MEL_FFT - WINDOW_SAMPLES - before
    magnitudes = _magnitudes(functional.pad(windows, (before, after)), MEL_FFT)
    historical = front_end == "kapre-0.1"
    filters = _mel_filters(int(input_repr.removeprefix("mel")), historical, windows.device)
    mel = (filters.T @ magnitudes.square()).sqrt() if historical else filters.T @ magnitudes
    return _decibels(mel)


def _magnitudes(windows: torch.Tensor, n_fft: int) -> torch.Tensor:
    """(n, n_fft // 2 + 1, frames); frame i sees the samples from 242 i on, what does not fill a frame is left out."""
    spectrum = torch.stft(
        windows, n_fft, HOP_SAMPLES, window=_hann(n_fft, windows.device), center=False, return_complex=True
    )
    return spectrum.abs()


def _decibels(amplitudes: torch.Tensor) -> torch.Tensor:
    """10 log10 (of an amplitude, as the reference has it), relative to each window's maximum, 80 dB of it."""
    decibels = amplitudes.clamp_(min=AMPLITUDE_FLOOR).log10_().mul_(10.0)
    return decibels.sub_(decibels.amax(dim=(1, 2), keepdim=True)).clamp_(min=-DYNAMIC_RANGE)


@lru_cache
@torch.inference_mode(False)
def _mel_filters(n_mels: int, historical: bool, device: torch.device) -> torch.Tensor:
    scale = area_mel_filters(SAMPLE_RATE, MEL_FFT, n_mels, "htk" if historical else "slaney")
    return torch.from_numpy(scale).to(device)


@lru_cache
@torch.inference_mode(False)
def _hann(length: int, device: torch.device) -> torch.Tensor:
    return torch.hann_window(length, periodic=True, device=device)
