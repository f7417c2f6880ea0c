"""Whisper's log-mel spectrogram, computed in torch on the model's own device.

Source: openai/whisper `audio.py` and transformers' `WhisperFeatureExtractor`, whose numbers these are to 1e-4.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from workers.devices import send

SAMPLE_RATE = 16_000  # Hz
N_FFT = 400  # samples, 25 ms
HOP_LENGTH = 160  # samples, 10 ms
WINDOW_SECONDS = 30
WINDOW_SAMPLES = WINDOW_SECONDS * SAMPLE_RATE  # what the encoder hears at once
WINDOW_FRAMES = WINDOW_SAMPLES // HOP_LENGTH
POWER_FLOOR = 1e-10  # mel power below this counts as this
SILENCE = -10.0  # log10(POWER_FLOOR), the level of a frame that holds only padding
DYNAMIC_RANGE = 8.0  # decades kept below the loudest value of a window (80 dB)


def whisper_log_mel(waveforms: Sequence[np.ndarray], n_mels: int, device: torch.device) -> torch.Tensor:
    """Compute the encoder's input for clips of at most 30 s, each padded with silence to 30 s.

    `waveforms` are 1-D, mono, 16 kHz, float, in [-1, 1]; an empty one is 30 s of silence. Returns (batch, n_mels,
    3000) float32 on `device`. The 25-ms windows run over the longest clip only: what lies beyond it is the constant
    that padding gives. Raises ValueError for a waveform that is not 1-D or is longer than 30 s.
    """
    clips = [torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32)) for waveform in waveforms]
    heard = _log_mel(send(_pad(clips), device), n_mels)
    quietest = _quietest(heard)
    features = _scale(quietest).expand(-1, n_mels, WINDOW_FRAMES).contiguous()
    features[..., : heard.shape[-1]] = _scale(torch.maximum(heard, quietest))
    return features


def log_mel_frames(waveform: torch.Tensor, n_mels: int) -> torch.Tensor:
    """Compute the frames of one clip that start inside it, without the padding that the encoder wants.

    `waveform` is 1-D, mono, 16 kHz, at most 30 s. Returns (ceil(samples / 160), n_mels) float32 on the waveform's
    device, equal to the first frames of `whisper_log_mel`. Raises ValueError as `whisper_log_mel` does.
    """
    heard = _log_mel(_pad([waveform.to(torch.float32)]), n_mels)[0]
    frames = heard[:, : -(-len(waveform) // HOP_LENGTH)]
    return _scale(torch.maximum(frames, _quietest(heard))).T.contiguous()


def _pad(clips: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack clips with trailing zeros, enough of them that every frame which can see sound is as in a 30-s window."""
    for clip in clips:
        if clip.ndim != 1 or len(clip) > WINDOW_SAMPLES:
            raise ValueError(
                f"a Whisper clip has one axis of at most {WINDOW_SAMPLES} samples, not {tuple(clip.shape)}"
            )
    longest = max(len(clip) for clip in clips)
    # One window more than the clip: the reflection at the right edge then mirrors zeros, as it does at 30 s.
    hops = -(-(longest + N_FFT) // HOP_LENGTH)
    stacked = clips[0].new_zeros(len(clips), min(hops * HOP_LENGTH, WINDOW_SAMPLES))
    for row, clip in zip(stacked, clips, strict=True):
        row[: len(clip)] = clip
    return stacked


def _log_mel(signals: torch.Tensor, n_mels: int) -> torch.Tensor:
    """(batch, samples) to log10 mel power (batch, n_mels, samples // 160), before the dynamic range is cut."""
    window = torch.hann_window(N_FFT, device=signals.device)
    spectrum = torch.stft(
        signals, N_FFT, HOP_LENGTH, window=window, center=True, pad_mode="reflect", return_complex=True
    )
    power = spectrum[..., :-1].abs().square()
    return (_mel_filters(n_mels, signals.device) @ power).clamp(min=POWER_FLOOR).log10()


def _quietest(log_mel: torch.Tensor) -> torch.Tensor:
    """The level below which a window is cut, (batch, 1, 1): 80 dB under its loudest value, or silence."""
    return (log_mel.amax(dim=(-2, -1), keepdim=True) - DYNAMIC_RANGE).clamp(min=SILENCE)


def _scale(log_mel: torch.Tensor) -> torch.Tensor:
    return (log_mel + 4.0) / 4.0


@lru_cache
def _mel_filters(n_mels: int, device: torch.device) -> torch.Tensor:
    """Slaney's triangles of unit area, (n_mels, 201); transformers computes them in float64, torchaudio does not."""
    filters = mel_filter_bank(
        num_frequency_bins=N_FFT // 2 + 1,
        num_mel_filters=n_mels,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters.T.astype(np.float32)).to(device)
