"""The log-mel patches that YAMNet and VGGish share: 96 frames of 10 ms by 64 bands, of 16 kHz sound.

Source: tensorflow/models, research/audioset: yamnet/features.py and vggish/mel_features.py, which differ in what they
add before the logarithm and in how patches overlap.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from workers.devices import send
from workers.models.windows import Piece

SAMPLE_RATE = 16_000  # Hz
FRAME_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
FFT_SAMPLES = 512
MEL_BANDS = 64
MEL_LOW = 125.0  # Hz
MEL_HIGH = 7_500.0  # Hz

PATCH_FRAMES = 96  # 0.96 s
PATCH_SAMPLES = (PATCH_FRAMES - 1) * HOP_SAMPLES + FRAME_SAMPLES  # 15,600: all that one patch sees


def hertz_to_mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return frequencies in Hz on the HTK mel scale."""
    return np.asarray(1127.0 * np.log1p(hertz / 700.0), dtype=np.float64)


@lru_cache
@torch.inference_mode(False)
def mel_filters(device: torch.device) -> torch.Tensor:
    """Return the mel filter bank (257, 64) in float32, made once for each device.

    The triangles are straight in mel, not in Hz as torchaudio draws them, have a peak of at most one, and leave out the
    DC bin. Source: tf.signal.linear_to_mel_weight_matrix.
    """
    bins = hertz_to_mel(np.linspace(0.0, SAMPLE_RATE / 2, FFT_SAMPLES // 2 + 1))[:, None]
    lowest, highest = hertz_to_mel(np.array([MEL_LOW, MEL_HIGH]))
    edges = np.linspace(lowest, highest, MEL_BANDS + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    filters = np.maximum(0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    filters[0] = 0.0
    return torch.from_numpy(filters.astype(np.float32)).to(device)


@lru_cache
@torch.inference_mode(False)
def _window(device: torch.device) -> torch.Tensor:
    return torch.hann_window(FRAME_SAMPLES, periodic=True, device=device)


def log_mel_spectrogram(waveform: torch.Tensor, offset: float) -> torch.Tensor:
    """Return the log-mel magnitudes (n_frames, 64) of a waveform (n_samples,), one frame every 10 ms.

    Frames are not centred: frame i sees samples 160 i to 160 i + 400, zero-padded on the right to 512, and what does
    not fill a frame is left out. The waveform is float32 at 16 kHz in [-1, 1]; `offset` is added before the logarithm.

    Raises:
        RuntimeError: the waveform is shorter than one frame of 400 samples.
    """
    frames = waveform.unfold(0, FRAME_SAMPLES, HOP_SAMPLES) * _window(waveform.device)
    magnitudes = torch.fft.rfft(frames, n=FFT_SAMPLES).abs()
    return torch.log(magnitudes @ mel_filters(waveform.device) + offset)


def log_mel_patches_of(
    waveforms: Sequence[NDArray[np.float32]],
    pieces: Sequence[Piece],
    hop_frames: int,
    offset: float,
    device: torch.device,
) -> torch.Tensor:
    """Return the patches (n, 96, 64) of the pieces, one every `hop_frames`, zeros where a waveform has no samples.

    Patches that overlap share their frames: each is computed once.
    """
    log_mel = log_mel_spectrogram(send(torch.from_numpy(_samples(waveforms, pieces, hop_frames)), device), offset)
    return log_mel[send(torch.from_numpy(_patch_frames(pieces, hop_frames)), device)]


def _frames(piece: Piece, hop_frames: int) -> int:
    """Return the hops that a piece takes in a batch's samples: what zeros keep the next one on the frame grid."""
    return math.ceil((PATCH_SAMPLES + (piece.count - 1) * hop_frames * HOP_SAMPLES) / HOP_SAMPLES)


def _samples(waveforms: Sequence[NDArray[np.float32]], pieces: Sequence[Piece], hop_frames: int) -> NDArray[np.float32]:
    """Return the samples of the pieces end to end, each starting on a multiple of the hop, zeros between them."""
    samples = np.zeros(sum(_frames(piece, hop_frames) for piece in pieces) * HOP_SAMPLES, dtype=np.float32)
    position = 0
    for piece in pieces:
        start = piece.first * hop_frames * HOP_SAMPLES
        spanned = PATCH_SAMPLES + (piece.count - 1) * hop_frames * HOP_SAMPLES
        part = waveforms[piece.owner][start : start + spanned]
        samples[position : position + len(part)] = part
        position += _frames(piece, hop_frames) * HOP_SAMPLES
    return samples


def _patch_frames(pieces: Sequence[Piece], hop_frames: int) -> NDArray[np.int64]:
    """Return for each patch (n, 96) its frames among those of `_samples`; none of them spans two pieces."""
    offsets = np.cumsum([0, *(_frames(piece, hop_frames) for piece in pieces[:-1])])
    starts = [offset + hop_frames * np.arange(piece.count) for offset, piece in zip(offsets, pieces, strict=True)]
    return np.concatenate(starts)[:, None] + np.arange(PATCH_FRAMES)
