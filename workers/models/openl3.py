"""OpenL3: embeddings of one second of sound each, of 48 kHz sound, in PyTorch.

Cramer, Wu, Salamon and Bello (2019), Look, Listen, and Learn More. The windows follow openl3 0.4.2 (core.py): zero
padding at the end to a whole hop, and with `center` 24,000 zeros in front.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch.nn.utils import convert_conv2d_weight_memory_format

from workers.models import windows
from workers.models.batching import Budget
from workers.models.model import Clip, Loading, ModelStage
from workers.models.openl3_front_ends import openl3_spectrogram
from workers.models.openl3_settings import SAMPLE_RATE, WINDOW_SAMPLES, OpenL3Settings
from workers.models.openl3_weights import OpenL3Network, load_openl3
from workers.models.pooling import pooled_row

LAYER = "audio_embedding_layer"
CPU_WINDOWS = 2  # a window takes some 40 MB in the first layers, and more of them make a processor no faster


class OpenL3Model:
    """OpenL3 as a pool runs it. `batch_size` windows are in the network at once, on a CPU two at most.

    An empty clip is one window of zeros; the reference refuses it.
    """

    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        network: OpenL3Network,
        settings: OpenL3Settings,
        pooling: str,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int,
    ) -> None:
        convert_conv2d_weight_memory_format(network, torch.channels_last)
        self._network = network.eval().to(device, dtype)
        self._settings = settings
        self._pooling = pooling
        self._device = device
        self._dtype = dtype
        self._budget = Budget(batch_size if device.type == "cuda" else min(batch_size, CPU_WINDOWS))

    @classmethod
    def load(cls, loading: Loading) -> Self:
        """Read the file of the release that the options need.

        Raises:
            ValueError: an option is not known, or the file is missing or holds another network.
        """
        stage = loading.settings("embeddings") or {}
        settings = OpenL3Settings.of(stage.get("options") or {})
        path = loading.folder / settings.weights_file
        network = load_openl3(path, settings.input_repr, settings.embedding_size)
        pooling = stage.get("pooling", "mean")
        return cls(network, settings, pooling, loading.device, loading.dtype, loading.batch_size)

    def run(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Return the pooled embedding of each clip: see RunningPool.result."""
        waveforms = [clip.waveform for clip in clips]
        counts = [self._settings.windows(len(waveform)) for waveform in waveforms]
        return windows.pool_windows(counts, self._budget, partial(self._embed, waveforms), self._pooling)

    @torch.inference_mode()
    def _embed(self, waveforms: Sequence[np.ndarray], pieces: list[windows.Piece]) -> torch.Tensor:
        before = WINDOW_SAMPLES // 2 if self._settings.center else 0
        seconds = windows.cut(waveforms, pieces, WINDOW_SAMPLES, self._settings.hop_samples, before, self._device)
        spectrograms = openl3_spectrogram(seconds, self._settings.input_repr, self._settings.front_end)
        embeddings: torch.Tensor = self._network(spectrograms.to(self._dtype))
        return embeddings

    def rows(self, result: np.ndarray, stage: ModelStage) -> list[dict[str, Any]]:
        """Return the embedding; `layer` says which of OpenL3's embeddings it is, since they cannot be compared."""
        chosen = self._settings
        layer = f"{LAYER} ({chosen.input_repr}, {chosen.content}, {chosen.front_end})"
        return [pooled_row(result, self._pooling, layer, chosen.hop_samples / SAMPLE_RATE)]
