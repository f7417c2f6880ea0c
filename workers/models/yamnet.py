"""YAMNet: AudioSet embeddings and scores of 16 kHz sound, in PyTorch.

The front-end and the network follow tensorflow/models, research/audioset/yamnet (features.py, params.py, yamnet.py),
with the batch-norms folded into the convolutions that precede them.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.nn.utils import convert_conv2d_weight_memory_format

from workers.devices import send
from workers.models.model import Clip, Loading, ModelStage
from workers.models.tagging import best_tags

SAMPLE_RATE = 16_000  # Hz
FRAME_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
FFT_SAMPLES = 512
MEL_BANDS = 64
MEL_LOW = 125.0  # Hz
MEL_HIGH = 7_500.0  # Hz
LOG_OFFSET = 0.001  # added to the mel magnitudes, so digital silence is log(0.001)

PATCH_FRAMES = 96  # 0.96 s
PATCH_HOP_FRAMES = 48  # 0.48 s
PATCH_HOP_SAMPLES = PATCH_HOP_FRAMES * HOP_SAMPLES  # 7,680
PATCH_SAMPLES = (PATCH_FRAMES - 1) * HOP_SAMPLES + FRAME_SAMPLES  # 15,600: all that one patch sees

EMBEDDING_SIZE = 1_024
N_CLASSES = 521

STEM_CHANNELS = 32
SEPARABLE_LAYERS = (  # (channels out, stride), layers 2 to 14
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1_024, 2),
    (EMBEDDING_SIZE, 1),
)

WEIGHTS_FILE = "model.safetensors"
CLASSES_FILE = "classes.csv"


def patch_count(samples: int) -> int:
    """Return how many patches the reference makes of `samples` samples: at least one, the last one zero-padded."""
    return 1 + max(0, math.ceil((samples - PATCH_SAMPLES) / PATCH_HOP_SAMPLES))


def samples_spanned(patches: int) -> int:
    """Return how many samples `patches` consecutive patches see."""
    return PATCH_SAMPLES + (patches - 1) * PATCH_HOP_SAMPLES


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


def log_mel_spectrogram(waveform: torch.Tensor) -> torch.Tensor:
    """Return the log-mel magnitudes (n_frames, 64) of a waveform (n_samples,), one frame every 10 ms.

    Frames are not centred: frame i sees samples 160 i to 160 i + 400, zero-padded on the right to 512, and what does
    not fill a frame is left out. The waveform is float32 at 16 kHz in [-1, 1].

    Raises:
        RuntimeError: the waveform is shorter than one frame of 400 samples.
    """
    frames = waveform.unfold(0, FRAME_SAMPLES, HOP_SAMPLES) * _window(waveform.device)
    magnitudes = torch.fft.rfft(frames, n=FFT_SAMPLES).abs()
    return torch.log(magnitudes @ mel_filters(waveform.device) + LOG_OFFSET)


def pad_waveform(waveform: torch.Tensor) -> torch.Tensor:
    """Return a waveform (n_samples,) with zeros at its end, up to a whole number of patches and at least one."""
    samples = waveform.shape[0]
    return functional.pad(waveform, (0, samples_spanned(patch_count(samples)) - samples))


def log_mel_patches(waveform: torch.Tensor) -> torch.Tensor:
    """Return the patches (n_patches, 96, 64) of a waveform (n_samples,): 0.96 s of log-mel each, one every 0.48 s.

    The waveform is float32 at 16 kHz in [-1, 1], of any length, also empty.
    """
    log_mel = log_mel_spectrogram(pad_waveform(waveform))
    return log_mel.unfold(0, PATCH_FRAMES, PATCH_HOP_FRAMES).transpose(1, 2)


class _Convolution(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, then ReLU; on even sizes a stride of two pads only the far side."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(channels_in, channels_out, kernel, stride, padding, groups=groups)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        if self.stride[0] == 2:
            patches = functional.pad(patches, (0, 1, 0, 1))
        return functional.relu_(super().forward(patches))


def _convolutions() -> Iterator[_Convolution]:
    yield _Convolution(1, STEM_CHANNELS, kernel=3, stride=2)
    channels = STEM_CHANNELS
    for channels_out, stride in SEPARABLE_LAYERS:
        yield _Convolution(channels, channels, kernel=3, stride=stride, groups=channels)
        yield _Convolution(channels, channels_out, kernel=1)
        channels = channels_out


class YamnetNetwork(nn.Module):
    """The MobileNet v1 of YAMNet, batch-norms folded: 27 convolutions with bias and ReLU, a mean and a linear layer.

    `convolutions` are in network order: the stem, then a depthwise and a pointwise one for each of layers 2 to 14.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(*_convolutions())
        self.classifier = nn.Linear(EMBEDDING_SIZE, N_CLASSES)

    def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return embeddings (n, 1024) and logits (n, 521) of log-mel patches (n, 96, 64); scores are their sigmoid."""
        embeddings = self.convolutions(patches.unsqueeze(1)).mean(dim=(2, 3))
        return embeddings, self.classifier(embeddings)


@dataclass(frozen=True, slots=True)
class YamnetResult:
    """What YAMNet says of one waveform: means over its patches.

    embedding: (1024,) float32. scores: (521,) float32 in [0, 1], independent of each other, in the order of
    `Yamnet.classes`.
    """

    embedding: NDArray[np.float32]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Consecutive patches of one waveform that go through the network together."""

    owner: int
    first: int
    count: int

    @property
    def frames(self) -> int:
        """Hops that the piece takes in a batch's samples: 80 samples of zeros keep the next one on the frame grid."""
        return math.ceil(samples_spanned(self.count) / HOP_SAMPLES)


def _batches(patch_counts: Sequence[int], max_patches: int) -> Iterator[list[_Piece]]:
    """Yield pieces in order, so that every batch but the last has `max_patches` patches."""
    batch: list[_Piece] = []
    room = max_patches
    for owner, total in enumerate(patch_counts):
        first = 0
        while first < total:
            count = min(room, total - first)
            batch.append(_Piece(owner, first, count))
            first, room = first + count, room - count
            if not room:
                yield batch
                batch, room = [], max_patches
    if batch:
        yield batch


def _batch_samples(waveforms: Sequence[NDArray[np.float32]], pieces: Sequence[_Piece]) -> NDArray[np.float32]:
    """Return the samples of the pieces end to end, each starting on a multiple of the hop, zeros between them."""
    samples = np.zeros(sum(piece.frames for piece in pieces) * HOP_SAMPLES, dtype=np.float32)
    position = 0
    for piece in pieces:
        start = piece.first * PATCH_HOP_SAMPLES
        part = waveforms[piece.owner][start : start + samples_spanned(piece.count)]
        samples[position : position + len(part)] = part
        position += piece.frames * HOP_SAMPLES
    return samples


def _patch_frames(pieces: Sequence[_Piece]) -> NDArray[np.int64]:
    """Return for each patch (n, 96) its frames among those of `_batch_samples`; none of them spans two pieces."""
    offsets = np.cumsum([0, *(piece.frames for piece in pieces[:-1])])
    starts = [offset + PATCH_HOP_FRAMES * np.arange(piece.count) for offset, piece in zip(offsets, pieces, strict=True)]
    return np.concatenate(starts)[:, None] + np.arange(PATCH_FRAMES)


def _read_classes(path: Path) -> tuple[str, ...]:
    with path.open(newline="", encoding="utf-8") as file:
        classes = tuple(row["display_name"] for row in csv.DictReader(file))
    if len(classes) != N_CLASSES:
        raise ValueError(f"{path} names {len(classes)} classes instead of {N_CLASSES}; convert the weights again")
    return classes


class Yamnet:
    """Embeds and classifies waveforms; what else is in a call does not change a waveform's result.

    classes: the 521 display names, in the order of the scores.
    """

    def __init__(
        self,
        network: YamnetNetwork,
        classes: tuple[str, ...],
        device: torch.device,
        max_patches: int = 256,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if max_patches < 1:
            raise ValueError(f"max_patches is {max_patches}; at least one patch has to fit")
        self.classes = classes
        # Channels last is what the convolutions are fastest in: 1.4 times the speed on a processor core.
        convert_conv2d_weight_memory_format(network, torch.channels_last)
        self._network = network.eval().to(device, dtype)
        self._device = device
        self._max_patches = max_patches
        self._dtype = dtype

    @classmethod
    def load(
        cls, folder: Path, device: torch.device, max_patches: int = 256, dtype: torch.dtype = torch.float32
    ) -> Self:
        """Load a folder that `yamnet_weights.convert_packaged` wrote.

        At most `max_patches` patches (0.48 s of sound each) are in the network at once. `dtype` is that of the network;
        the front-end, the sigmoid and the means are float32.

        Raises:
            FileNotFoundError: the folder lacks one of its two files.
            RuntimeError: the tensors are not those of YAMNet.
            ValueError: the class list is not 521 long, or max_patches is below one.
        """
        network = YamnetNetwork()
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return cls(network, _read_classes(folder / CLASSES_FILE), device, max_patches, dtype)

    @torch.inference_mode()
    def run(self, waveforms: Sequence[NDArray[np.float32]]) -> list[YamnetResult]:
        """Return one result for each waveform (n_samples,): 16 kHz, in [-1, 1], of any length, also empty.

        Memory stays bounded by `max_patches`, however long a waveform is. A waveform that holds a NaN gives NaN and
        leaves the others as they are.

        Raises:
            ValueError: a waveform is not one-dimensional.
        """
        for index, waveform in enumerate(waveforms):
            if waveform.ndim != 1:
                raise ValueError(f"waveform {index} has shape {waveform.shape}; mix it down to (n_samples,)")
        counts = [patch_count(len(waveform)) for waveform in waveforms]
        owners: list[int] = []
        sums: list[torch.Tensor] = []
        for pieces in _batches(counts, self._max_patches):
            owners += [piece.owner for piece in pieces]
            sums.append(self._piece_sums(waveforms, pieces))
        return _pool(counts, owners, sums)

    def _piece_sums(self, waveforms: Sequence[NDArray[np.float32]], pieces: Sequence[_Piece]) -> torch.Tensor:
        """Return the sums (n_pieces, 1024 + 521) of embeddings and scores over each piece, still on the device."""
        log_mel = log_mel_spectrogram(send(torch.from_numpy(_batch_samples(waveforms, pieces)), self._device))
        patches = log_mel[send(torch.from_numpy(_patch_frames(pieces)), self._device)]
        embeddings, logits = self._network(patches.to(self._dtype))
        outputs = torch.cat([embeddings.float(), logits.float().sigmoid()], dim=1)
        lengths = send(torch.from_numpy(np.array([piece.count for piece in pieces])), self._device)
        # A sum over rows, unlike a product with a membership matrix, keeps one waveform's NaN out of the others.
        return torch.segment_reduce(outputs, "sum", lengths=lengths)


def _pool(counts: Sequence[int], owners: Sequence[int], sums: Sequence[torch.Tensor]) -> list[YamnetResult]:
    """Return the mean over each waveform's pieces; the one place where the device is waited for."""
    if not sums:
        return []
    totals = np.zeros((len(counts), EMBEDDING_SIZE + N_CLASSES))
    np.add.at(totals, np.array(owners), torch.cat(list(sums)).cpu().numpy())
    means = (totals / np.array(counts)[:, None]).astype(np.float32)
    return [YamnetResult(mean[:EMBEDDING_SIZE], mean[EMBEDDING_SIZE:]) for mean in means]


CPU_PATCHES = 64  # a batch that fits a core's cache: 1.3 times as fast as 256 on a CPU
GPU_PATCHES = 1_024


class YamnetModel:
    """YAMNet as a pool runs it: embeddings and tags from one pass."""

    sample_rate = SAMPLE_RATE

    def __init__(self, yamnet: Yamnet) -> None:
        self._yamnet = yamnet

    @classmethod
    def load(cls, loading: Loading) -> Self:
        """Read the checkpoint."""
        patches = GPU_PATCHES if loading.device.type == "cuda" else CPU_PATCHES
        return cls(Yamnet.load(loading.folder, loading.device, max_patches=patches, dtype=loading.dtype))

    def run(self, clips: Sequence[Clip]) -> list[YamnetResult]:
        """Return one result per clip."""
        return self._yamnet.run([clip.waveform for clip in clips])

    def rows(self, result: YamnetResult, stage: ModelStage) -> list[dict[str, Any]]:
        """Return the embedding, or the best tags."""
        if stage.table == "embeddings":
            vector = {"dim": len(result.embedding), "vector": result.embedding}
            return [{"layer": "global average pool", "pooling": "mean", **vector}]
        return best_tags(result.scores, self._yamnet.classes, stage.settings["top_k"])
