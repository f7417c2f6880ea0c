"""GE2E speaker embeddings of 16 kHz speech: who speaks, not what is said, in PyTorch.

Wan, Wang, Papir and Moreno (2018), Generalized End-to-End Loss for Speaker Verification, as Resemblyzer 0.1.4 has it
(audio.py, voice_encoder.py): volume raised to -30 dBFS, 40 mel bands of the power without a logarithm, windows of
1.6 s, 1.3 of them a second, an LSTM over each. Resemblyzer's trimming of silence with webrtcvad is left out: segments
are speech already.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, Final, Self

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from workers.models import windows
from workers.models.batching import Budget
from workers.models.mel import area_mel_filters
from workers.models.model import Clip, Loading, ModelStage
from workers.models.pooling import pooled_row

SAMPLE_RATE: Final = 16_000  # Hz
FFT_SAMPLES: Final = 400  # 25 ms
HOP_SAMPLES: Final = 160  # 10 ms
MEL_BANDS: Final = 40
TARGET_RMS: Final = 10.0 ** (-30.0 / 20.0)  # -30 dB of full scale

PARTIAL_FRAMES: Final = 160
PARTIAL_SECONDS: Final = PARTIAL_FRAMES * HOP_SAMPLES / SAMPLE_RATE  # 1.6
PARTIAL_HOP_FRAMES: Final = round(SAMPLE_RATE / 1.3 / HOP_SAMPLES)  # 77: 1.3 partials a second
PARTIAL_HOP_SAMPLES: Final = PARTIAL_HOP_FRAMES * HOP_SAMPLES
PARTIAL_SAMPLES: Final = (PARTIAL_FRAMES - 1) * HOP_SAMPLES + FFT_SAMPLES  # all that one partial's frames see
MIN_COVERAGE: Final = 0.75  # of the last partial; below it is left out, unless it is the only one

HIDDEN: Final = 256
LAYERS: Final = 3
WEIGHTS_FILE: Final = "model.safetensors"
LOUDNESS_SAMPLES: Final = 1 << 20  # squared and summed at once


def partial_count(samples: int) -> int:
    """Return how many partials there are of `samples` samples. Source: VoiceEncoder.compute_partial_slices."""
    frames = -(-(samples + 1) // HOP_SAMPLES)
    count = len(range(0, max(1, frames - PARTIAL_FRAMES + PARTIAL_HOP_FRAMES + 1), PARTIAL_HOP_FRAMES))
    covered = (samples - (count - 1) * PARTIAL_HOP_SAMPLES) / (PARTIAL_FRAMES * HOP_SAMPLES)
    return count - 1 if covered < MIN_COVERAGE and count > 1 else count


def gain(waveform: np.ndarray) -> float:
    """Return what raises a waveform to -30 dBFS; 1 where it is louder, or silent."""
    parts = (waveform[start : start + LOUDNESS_SAMPLES] for start in range(0, len(waveform), LOUDNESS_SAMPLES))
    power = sum(float(np.dot(part, part)) for part in parts) / max(1, len(waveform))
    return max(1.0, TARGET_RMS / power**0.5) if power > 0 else 1.0


def partial_mels(partials: torch.Tensor) -> torch.Tensor:
    """Return the mel power (n, 160, 40) of partials (n, 25840), each from 200 samples before its first frame's centre.

    Source: librosa.feature.melspectrogram(n_fft=400, hop_length=160, n_mels=40), centred, zeros at the ends.
    """
    window = _hann(partials.device)
    spectrum = torch.stft(partials, FFT_SAMPLES, HOP_SAMPLES, window=window, center=False, return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    return power.transpose(1, 2) @ _mel_filters(partials.device)


@lru_cache
@torch.inference_mode(False)
def _mel_filters(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(area_mel_filters(SAMPLE_RATE, FFT_SAMPLES, MEL_BANDS, "slaney")).to(device)


@lru_cache
@torch.inference_mode(False)
def _hann(device: torch.device) -> torch.Tensor:
    return torch.hann_window(FFT_SAMPLES, periodic=True, device=device)


class SpeakerNetwork(nn.Module):
    """Three LSTM layers of 256 units and a linear layer; the last hidden state becomes a unit vector."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(MEL_BANDS, HIDDEN, LAYERS, batch_first=True)
        self.linear = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """Return unit vectors (n, 256), no number below zero, of mel powers (n, frames, 40)."""
        _, (hidden, _) = self.lstm(mels)
        return functional.normalize(functional.relu(self.linear(hidden[-1])).float(), dim=1)


class SpeakerModel:
    """The speaker encoder as a pool runs it. `batch_seconds` of partials are in the network at once.

    The pooling `mean` is the utterance embedding of the reference, brought back to length 1; the others are of the
    partials as they are. A clip of any length has one partial at least, zero-padded.
    """

    sample_rate = SAMPLE_RATE

    def __init__(
        self, network: SpeakerNetwork, pooling: str, device: torch.device, dtype: torch.dtype, batch_seconds: float
    ) -> None:
        self._network = network.eval().to(device, dtype)
        self._pooling = pooling
        self._device = device
        self._dtype = dtype
        self._budget = Budget(max(1.0, batch_seconds / PARTIAL_SECONDS))

    @classmethod
    def load(cls, loading: Loading) -> Self:
        """Read the folder that `speaker_weights.convert_packaged` wrote.

        Raises:
            RuntimeError: the tensors are not those of the encoder.
        """
        network = SpeakerNetwork()
        network.load_state_dict(load_file(loading.folder / WEIGHTS_FILE))
        pooling = (loading.settings("embeddings") or {}).get("pooling", "mean")
        return cls(network, pooling, loading.device, loading.dtype, loading.batch_seconds)

    def run(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Return the pooled embedding of each clip: see RunningPool.result."""
        waveforms = [clip.waveform for clip in clips]
        gains = [gain(waveform) for waveform in waveforms]
        counts = [partial_count(len(waveform)) for waveform in waveforms]
        pooled = windows.pool_windows(counts, self._budget, partial(self._embed, waveforms, gains), self._pooling)
        return [_unit(vector) for vector in pooled] if self._pooling == "mean" else pooled

    @torch.inference_mode()
    def _embed(
        self, waveforms: Sequence[np.ndarray], gains: Sequence[float], pieces: list[windows.Piece]
    ) -> torch.Tensor:
        before = FFT_SAMPLES // 2
        partials = windows.cut(waveforms, pieces, PARTIAL_SAMPLES, PARTIAL_HOP_SAMPLES, before, self._device)
        louder = np.repeat([gains[piece.owner] for piece in pieces], [piece.count for piece in pieces])
        partials *= torch.from_numpy(louder.astype(np.float32)).to(self._device)[:, None]
        embeddings: torch.Tensor = self._network(partial_mels(partials).to(self._dtype))
        return embeddings

    def rows(self, result: np.ndarray, stage: ModelStage) -> list[dict[str, Any]]:
        """Return the embedding."""
        return [pooled_row(result, self._pooling, "speaker", PARTIAL_HOP_SAMPLES / SAMPLE_RATE)]


def _unit(vector: np.ndarray) -> np.ndarray:
    """Return a vector at length 1; zeros stay zeros."""
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length > 0 else vector
