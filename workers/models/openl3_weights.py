"""OpenL3's network, and its weights from the Keras files of the release."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from workers.models.keras_h5 import read_layers

CHANNELS: Final = (64, 64, 128, 128, 256, 256, 512, 512)
BATCH_NORM_EPSILON: Final = 1e-3  # Keras' default
POOLS: Final = {  # of the last layer, bins by frames: what an embedding of 6144 or 512 numbers is made by
    ("linear", 6144): (8, 8),
    ("linear", 512): (32, 24),
    ("mel128", 6144): (4, 8),
    ("mel128", 512): (16, 24),
    ("mel256", 6144): (8, 8),
    ("mel256", 512): (32, 24),
}


class OpenL3Network(nn.Module):
    """The audio network of OpenL3 with its batch-norms folded: a scale, eight convolutions, three poolings of 2 x 2.

    The scale is the batch-norm of the spectrogram, which cannot be folded: the first convolution pads with zeros after
    it. The last convolution has neither batch-norm nor ReLU.
    """

    def __init__(self, input_repr: str, embedding_size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.shift = nn.Parameter(torch.zeros(1))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inner, outer, 3, padding=1) for inner, outer in zip((1, *CHANNELS), CHANNELS, strict=False)
        )
        self._pool = POOLS[input_repr, embedding_size]

    def forward(self, spectrograms: torch.Tensor) -> torch.Tensor:
        """Return embeddings (n, 6144) or (n, 512) of spectrograms (n, bins, frames)."""
        maps = (spectrograms * self.scale + self.shift).unsqueeze(1)
        for number, convolution in enumerate(self.convolutions):
            maps = convolution(maps)
            if number in (1, 3, 5):
                maps = functional.max_pool2d(maps, 2)  # before ReLU, which keeps order: a quarter of the work
            if number < len(self.convolutions) - 1:
                maps = functional.relu_(maps)
        pooled = functional.max_pool2d(maps, self._pool)
        return pooled.permute(0, 2, 3, 1).flatten(1)  # bins, frames, channels: the order of Keras


def load_openl3(path: Path, input_repr: str, embedding_size: int) -> OpenL3Network:
    """Read a file `openl3_audio_<input_repr>_<content>-v0_4_0.h5`.

    Layers are taken in the file's order, since their numbers differ between versions of Keras: a batch-norm (gamma,
    beta, moving mean, moving variance), then a convolution (kernel, bias), eight times.

    Raises:
        ValueError: h5py is missing, or the file holds another network.
    """
    layers = read_layers(path)
    shapes = [[array.shape for array in arrays] for _, arrays in layers]
    if shapes != list(_expected_shapes()):
        raise ValueError(
            f"{path} does not hold the 16 layers of OpenL3's audio network; take the -v0_4_0.h5 file of its release"
        )
    network = OpenL3Network(input_repr, embedding_size)
    state = {name: torch.from_numpy(array.astype(np.float32)) for name, array in _folded([one for _, one in layers])}
    network.load_state_dict(state)
    return network.eval()


def _expected_shapes() -> Iterator[list[tuple[int, ...]]]:
    for inner, outer in zip((1, *CHANNELS), CHANNELS, strict=False):
        yield [(inner,)] * 4
        yield [(3, 3, inner, outer), (outer,)]


def _folded(layers: list[list[np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the state dict: each batch-norm but the first folded, in float64, into the convolution before it."""
    norms = [_scale_and_shift(*layer) for layer in layers[::2]]
    (scale, shift), *following = norms
    yield "scale", scale
    yield "shift", shift
    identity = (np.ones(CHANNELS[-1]), np.zeros(CHANNELS[-1]))
    for number, ((kernel, bias), (scale, shift)) in enumerate(zip(layers[1::2], [*following, identity], strict=True)):
        weight = kernel.astype(np.float64).transpose(3, 2, 0, 1) * scale[:, None, None, None]
        yield f"convolutions.{number}.weight", weight
        yield f"convolutions.{number}.bias", bias * scale + shift


def _scale_and_shift(
    gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + BATCH_NORM_EPSILON)
    return scale, beta - mean * scale
