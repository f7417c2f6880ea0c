"""YAMNet: AudioSet embeddings and scores of 16 kHz sound, in PyTorch.

The front-end and the network follow tensorflow/models, research/audioset/yamnet (features.py, params.py, yamnet.py),
with the batch-norms folded into the convolutions that precede them.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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
from workers.models import windows
from workers.models.batching import Budget
from workers.models.log_mel import (
    HOP_SAMPLES,
    PATCH_SAMPLES,
    SAMPLE_RATE,
    log_mel_patches_of,
)
from workers.models.model import Clip, Loading, ModelStage
from workers.models.pooling import pooled_row
from workers.models.running import RunningPool
from workers.models.tagging import best_tags
from workers.models.yamnet_settings import RELEASED_CLASSES_FILE, RELEASED_WEIGHTS_FILE

LOG_OFFSET = 0.001  # added to the mel magnitudes, so digital silence is log(0.001)
PATCH_HOP_FRAMES = 48  # 0.48 s
PATCH_HOP_SAMPLES = PATCH_HOP_FRAMES * HOP_SAMPLES  # 7,680
PATCH_HOP_SECONDS = PATCH_HOP_SAMPLES / SAMPLE_RATE

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
    """What YAMNet says of one waveform.

    embedding: float32 (1024,), pooled over its patches, the mean unless told otherwise; (2048,) with `mean_std`, and
    all patches, (n, 1024), with `frames`. scores: their mean, (521,) float32 in [0, 1], independent of each other, in
    the order of `Yamnet.classes`.
    """

    embedding: NDArray[np.float32]
    scores: NDArray[np.float32]


def _read_classes(path: Path) -> tuple[str, ...]:
    with path.open(newline="", encoding="utf-8") as file:
        classes = tuple(row["display_name"] for row in csv.DictReader(file))
    if len(classes) != N_CLASSES:
        raise ValueError(f"{path} names {len(classes)} classes instead of {N_CLASSES}; convert the weights again")
    return classes


class Yamnet:
    """Embeds and classifies waveforms; what else is in a call does not change a waveform's result.

    classes: the 521 display names, in the order of the scores. pooling: how patches become one embedding.
    """

    def __init__(
        self,
        network: YamnetNetwork,
        classes: tuple[str, ...],
        device: torch.device,
        max_patches: int = 256,
        dtype: torch.dtype = torch.float32,
        pooling: str = "mean",
    ) -> None:
        if max_patches < 1:
            raise ValueError(f"max_patches is {max_patches}; at least one patch has to fit")
        self.classes = classes
        self.pooling = pooling
        # Channels last is what the convolutions are fastest in: 1.4 times the speed on a processor core.
        convert_conv2d_weight_memory_format(network, torch.channels_last)
        self._network = network.eval().to(device, dtype)
        self._device = device
        self._budget = Budget(max_patches)
        self._dtype = dtype

    @classmethod
    def load(
        cls,
        folder: Path,
        device: torch.device,
        max_patches: int = 256,
        dtype: torch.dtype = torch.float32,
        pooling: str = "mean",
    ) -> Self:
        """Load a folder that `yamnet_weights.convert_packaged` wrote, or one with the two files of the release.

        At most `max_patches` patches (0.48 s of sound each) are in the network at once. `dtype` is that of the network;
        the front-end, the sigmoid and the poolings are float32.

        Raises:
            FileNotFoundError: the folder lacks one of its two files.
            RuntimeError: the tensors are not those of YAMNet.
            ValueError: the class list is not 521 long, max_patches is below one, yamnet.h5 holds another network, or
                h5py is missing.
        """
        released = (folder / RELEASED_WEIGHTS_FILE).exists()
        network = YamnetNetwork()
        network.load_state_dict(_released_state(folder) if released else load_file(folder / WEIGHTS_FILE))
        classes = _read_classes(folder / (RELEASED_CLASSES_FILE if released else CLASSES_FILE))
        return cls(network, classes, device, max_patches, dtype, pooling)

    @torch.inference_mode()
    def run(self, waveforms: Sequence[NDArray[np.float32]]) -> list[YamnetResult]:
        """Return one result for each waveform (n_samples,): 16 kHz, in [-1, 1], of any length, also empty.

        Memory stays bounded by `max_patches`, however long a waveform is, but for the pooling `frames`. A waveform that
        holds a NaN gives NaN and leaves the others as they are.

        Raises:
            ValueError: a waveform is not one-dimensional.
        """
        for index, waveform in enumerate(waveforms):
            if waveform.ndim != 1:
                raise ValueError(f"waveform {index} has shape {waveform.shape}; mix it down to (n_samples,)")
        counts = [patch_count(len(waveform)) for waveform in waveforms]
        if self.pooling == "mean":
            return self._means(waveforms, counts)
        embeddings = [RunningPool(self.pooling) for _ in waveforms]
        scores = [RunningPool("mean") for _ in waveforms]
        for piece, outputs in windows.fetched(counts, self._budget, partial(self._outputs, waveforms)):
            embeddings[piece.owner].add(outputs[:, :EMBEDDING_SIZE])
            scores[piece.owner].add(outputs[:, EMBEDDING_SIZE:])
        return [YamnetResult(one.result(), other.result()) for one, other in zip(embeddings, scores, strict=True)]

    def _means(self, waveforms: Sequence[NDArray[np.float32]], counts: Sequence[int]) -> list[YamnetResult]:
        """Pool on the device: what comes back of a batch is one sum for each piece of it, at the very end."""
        owners: list[int] = []
        sums: list[torch.Tensor] = []
        for pieces, found in windows.in_batches(counts, self._budget, partial(self._piece_sums, waveforms)):
            owners += [piece.owner for piece in pieces]
            sums.append(found)
        return _pool(counts, owners, sums)

    def _piece_sums(self, waveforms: Sequence[NDArray[np.float32]], pieces: Sequence[windows.Piece]) -> torch.Tensor:
        """Return the sums (n_pieces, 1024 + 521) of embeddings and scores over each piece, still on the device."""
        outputs = self._outputs(waveforms, pieces)
        lengths = send(torch.from_numpy(np.array([piece.count for piece in pieces])), self._device)
        # A sum over rows, unlike a product with a membership matrix, keeps one waveform's NaN out of the others.
        return torch.segment_reduce(outputs, "sum", lengths=lengths)

    def _outputs(self, waveforms: Sequence[NDArray[np.float32]], pieces: Sequence[windows.Piece]) -> torch.Tensor:
        """Return embeddings and scores (n_patches, 1024 + 521) of the pieces' patches, still on the device."""
        patches = log_mel_patches_of(waveforms, pieces, PATCH_HOP_FRAMES, LOG_OFFSET, self._device)
        embeddings, logits = self._network(patches.to(self._dtype))
        return torch.cat([embeddings.float(), logits.float().sigmoid()], dim=1)


def _released_state(folder: Path) -> dict[str, torch.Tensor]:
    from workers.models.yamnet_weights import from_release  # which builds on this module

    return from_release(folder / RELEASED_WEIGHTS_FILE)


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
        pooling = (loading.settings("embeddings") or {}).get("pooling", "mean")
        return cls(Yamnet.load(loading.folder, loading.device, patches, loading.dtype, pooling))

    def run(self, clips: Sequence[Clip]) -> list[YamnetResult]:
        """Return one result per clip."""
        return self._yamnet.run([clip.waveform for clip in clips])

    def rows(self, result: YamnetResult, stage: ModelStage) -> list[dict[str, Any]]:
        """Return the embedding, or the best tags."""
        if stage.table == "embeddings":
            return [pooled_row(result.embedding, self._yamnet.pooling, "global average pool", PATCH_HOP_SECONDS)]
        return best_tags(result.scores, self._yamnet.classes, stage.settings["top_k"])
