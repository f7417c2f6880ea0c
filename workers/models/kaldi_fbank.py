"""Kaldi's log-mel filter bank, for many clips at once on the model's own device.

The steps and their order are those of torchaudio.compliance.kaldi.fbank with a Hann window and no dither, which takes
one clip at a time; its numbers are these to 1e-4.
"""

from functools import lru_cache

import torch
from torch.nn import functional
from torchaudio.compliance.kaldi import get_mel_banks

FRAME_SECONDS = 0.025
HOP_SECONDS = 0.010
PREEMPHASIS = 0.97
MEL_LOW = 20.0  # Hz
FLOOR = torch.finfo(torch.float32).eps  # mel power below this counts as this


def frame_samples(sample_rate: int) -> tuple[int, int]:
    """Return the samples of a frame and those from one to the next."""
    return int(sample_rate * FRAME_SECONDS), int(sample_rate * HOP_SECONDS)


def frame_count(samples: int, sample_rate: int) -> int:
    """Return how many whole frames fit into so many samples: one at least, which zeros fill up."""
    frame, hop = frame_samples(sample_rate)
    return 1 + max(0, samples - frame) // hop


def samples_spanned(frames: int, sample_rate: int) -> int:
    """Return how many samples so many frames see."""
    frame, hop = frame_samples(sample_rate)
    return frame + (frames - 1) * hop


def kaldi_fbank(waveforms: torch.Tensor, mel_bins: int, sample_rate: int) -> torch.Tensor:
    """Return log mel powers (clips, frames, mel_bins) of waveforms (clips, samples), float32 in [-1, 1].

    Frames are 25 ms, one every 10 ms, none beyond the last whole one.

    Raises:
        RuntimeError: the waveforms are shorter than a frame.
    """
    frame, hop = frame_samples(sample_rate)
    frames = waveforms.unfold(-1, frame, hop)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    before = functional.pad(frames, (1, 0), mode="replicate")[..., :-1]
    frames = (frames - PREEMPHASIS * before) * _window(frame, waveforms.device)
    length = 1 << (frame - 1).bit_length()  # the next power of two, as Kaldi rounds
    power = torch.fft.rfft(frames, n=length).abs().square()
    mel: torch.Tensor = power @ _mel_filters(mel_bins, length, sample_rate, waveforms.device)
    return mel.clamp(min=FLOOR).log()


@lru_cache
@torch.inference_mode(False)
def _window(samples: int, device: torch.device) -> torch.Tensor:
    return torch.hann_window(samples, periodic=False, device=device)


@lru_cache
@torch.inference_mode(False)
def _mel_filters(mel_bins: int, fft_samples: int, sample_rate: int, device: torch.device) -> torch.Tensor:
    """Triangles straight in mel from 20 Hz to the Nyquist frequency, (fft_samples // 2 + 1, mel_bins)."""
    filters: torch.Tensor = get_mel_banks(mel_bins, fft_samples, sample_rate, MEL_LOW, 0.0, 100.0, -500.0, 1.0)[0]
    return functional.pad(filters, (0, 1)).T.contiguous().to(device)
