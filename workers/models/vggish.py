"""VGGish: embeddings of 0.96 s of 16 kHz sound each, in PyTorch.

As tensorflow/models, research/audioset/vggish has it today (mel_features.py, vggish_slim.py, vggish_postprocess.py):
patches that do not overlap, 0.01 added before the logarithm, maps flattened as (time, band, channel), no activation
behind the last layer. What does not fill a patch is left out; only a clip shorter than one patch, of which the
reference makes nothing, is zero-padded to one.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from workers.models import windows
from workers.models.batching import Budget
from workers.models.log_mel import (
    FRAME_SAMPLES,
    HOP_SAMPLES,
    MEL_BANDS,
    PATCH_FRAMES,
    SAMPLE_RATE,
    log_mel_patches_of,
)
from workers.models.model import Clip, Loading, ModelStage
from workers.models.pooling import pooled_row
from workers.models.vggish_settings import PCA_FILE, wants_pca, weights_file

LOG_OFFSET: Final = 0.01
PATCH_SECONDS: Final = 0.96
EMBEDDING_SIZE: Final = 128
HIDDEN: Final = 4_096
LAYERS: Final = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M")  # channels of convolutions, and poolings
FLAT_SIZE: Final = (PATCH_FRAMES // 16) * (MEL_BANDS // 16) * 512
PCA_RANGE: Final = 2.0  # whitened values beyond are clipped
CPU_PATCHES: Final = 16


def patch_count(samples: int) -> int:
    """Return how many patches there are of `samples` samples: whole ones, and one at least."""
    frames = 1 + (samples - FRAME_SAMPLES) // HOP_SAMPLES
    return max(1, frames // PATCH_FRAMES)


class VggishNetwork(nn.Module):
    """The network, its weights named as torchvggish names them; `hidden` units in the two layers before the last."""

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.features = nn.Sequential(*_features())
        self.embeddings = nn.Sequential(
            nn.Linear(FLAT_SIZE, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, EMBEDDING_SIZE),
        )

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return embeddings (n, 128) of log-mel patches (n, 96, 64)."""
        maps = self.features(patches.unsqueeze(1))
        embeddings: torch.Tensor = self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))
        return embeddings


def _features() -> list[nn.Module]:
    modules: list[nn.Module] = []
    channels = 1
    for layer in LAYERS:
        if isinstance(layer, str):
            modules.append(nn.MaxPool2d(2))
        else:
            modules += [nn.Conv2d(channels, layer, 3, padding=1), nn.ReLU(inplace=True)]
            channels = layer
    return modules


class Whitening:
    """The released post-processing: a PCA, clipping to [-2, 2], and 256 steps of it."""

    def __init__(self, path: Path, device: torch.device) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            vectors, means = arrays["pca_eigen_vectors"], arrays["pca_means"].reshape(-1)
        if vectors.shape != (EMBEDDING_SIZE, EMBEDDING_SIZE) or means.shape != (EMBEDDING_SIZE,):
            raise ValueError(f"{path} holds {vectors.shape} and {means.shape} numbers; VGGish has 128 x 128 and 128")
        self._vectors = torch.from_numpy(vectors.astype(np.float32)).to(device)
        self._means = torch.from_numpy(means.astype(np.float32)).to(device)

    def __call__(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return whole numbers from 0 to 255, as float32 (n, 128), of float32 embeddings (n, 128)."""
        whitened = ((embeddings - self._means) @ self._vectors.T).clamp(-PCA_RANGE, PCA_RANGE)
        return ((whitened + PCA_RANGE) * (255.0 / (2 * PCA_RANGE))).floor()  # a cast to uint8 in the reference


class VggishModel:
    """VGGish as a pool runs it. `batch_seconds` of patches are in the network at once, on a CPU 16 at most."""

    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        network: VggishNetwork,
        whitening: Whitening | None,
        pooling: str,
        device: torch.device,
        dtype: torch.dtype,
        batch_seconds: float,
    ) -> None:
        convert_conv2d_weight_memory_format(network, torch.channels_last)
        self._network = network.eval().to(device, dtype)
        self._whitening = whitening
        self._pooling = pooling
        self._device = device
        self._dtype = dtype
        patches = max(1.0, batch_seconds / PATCH_SECONDS)
        self._budget = Budget(patches if device.type == "cuda" else min(patches, CPU_PATCHES))

    @classmethod
    def load(cls, loading: Loading) -> Self:
        """Read the weights, in torchvggish's layout; a .pth without running any code in it.

        Raises:
            ValueError: a file is missing, or an option is not known.
            RuntimeError: the tensors are not those of VGGish.
        """
        stage = loading.settings("embeddings") or {}
        network = load_vggish(weights_file(loading.folder))
        pca = wants_pca(stage.get("options") or {})
        whitening = Whitening(loading.folder / PCA_FILE, loading.device) if pca else None
        pooling = stage.get("pooling", "mean")
        return cls(network, whitening, pooling, loading.device, loading.dtype, loading.batch_seconds)

    def run(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Return the pooled embedding of each clip: see RunningPool.result."""
        waveforms = [clip.waveform for clip in clips]
        counts = [patch_count(len(waveform)) for waveform in waveforms]
        return windows.pool_windows(counts, self._budget, partial(self._embed, waveforms), self._pooling)

    @torch.inference_mode()
    def _embed(self, waveforms: Sequence[np.ndarray], pieces: list[windows.Piece]) -> torch.Tensor:
        patches = log_mel_patches_of(waveforms, pieces, PATCH_FRAMES, LOG_OFFSET, self._device)
        embeddings = self._network(patches.to(self._dtype)).float()
        return embeddings if self._whitening is None else self._whitening(embeddings)

    def rows(self, result: np.ndarray, stage: ModelStage) -> list[dict[str, Any]]:
        """Return the embedding."""
        layer = "embedding" if self._whitening is None else "embedding, pca"
        return [pooled_row(result, self._pooling, layer, PATCH_SECONDS)]


def load_vggish(path: Path) -> VggishNetwork:
    """Read weights in torchvggish's layout; its own post-processing (`pproc`), where a file has it, is left out.

    The width of the hidden layers is the file's; 4,096 in the release.

    Raises:
        RuntimeError: a tensor is missing, unexpected or of the wrong shape.
        pickle.UnpicklingError: a .pth holds anything but tensors.
    """
    safe = path.suffix == ".safetensors"
    state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("pproc.")}
    hidden = len(state["embeddings.0.bias"]) if "embeddings.0.bias" in state else HIDDEN
    with torch.device("meta"):
        network = VggishNetwork(hidden)
    network.load_state_dict(state, assign=True)
    return network.float().eval()
