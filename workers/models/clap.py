"""CLAP: embeddings of sound in one space with those of text, so that a lake can be searched in words.

Source: transformers' ClapModel and ClapFeatureExtractor, whose numbers these are for a clip that one window of 10 s
holds. Of what is longer the extractor takes random crops, and it calls a random clip of every batch longer than it is.
Here nothing is random: a long clip is heard in consecutive windows, each as a clip that is not longer. The embedding of
a clip is the mean of its windows' embeddings, each of length one and weighted by the samples it holds, brought to
length one again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoTokenizer, ClapAudioModelWithProjection, ClapConfig, ClapTextModelWithProjection
from transformers.audio_utils import mel_filter_bank

from workers.devices import send
from workers.models.batching import Budget
from workers.models.checkpoint_files import refuse_gaps
from workers.models.clap_settings import ClapSettings
from workers.models.fixed_windows import Window, cut, run_windows, window_budget
from workers.models.model import Clip, Loading, ModelStage
from workers.models.pooling import embedding_row

LAYER: Final = "audio_projection"
POWER_FLOOR: Final = 1e-10  # mel power below this counts as this: -100 dB


class _AudioHalf(ClapAudioModelWithProjection):
    """Leaves the weights of the other half where they are, without a warning for each."""

    _keys_to_ignore_on_load_unexpected: ClassVar = (r"^text_(model|projection)\.", "^logit_scale_[at]$")


class _TextHalf(ClapTextModelWithProjection):
    """The same, the other way round."""

    _keys_to_ignore_on_load_unexpected: ClassVar = (r"^audio_(model|projection)\.", "^logit_scale_[at]$")


@dataclass(frozen=True, slots=True)
class ClapResult:
    """What was heard in one clip.

    Attributes:
        embeddings: (windows, dim) float32, each of length one.
        samples: (windows,), how many samples of sound each window holds.
    """

    embeddings: np.ndarray
    samples: np.ndarray


class Clap:
    """The audio half of CLAP, as a pool runs it."""

    def __init__(self, network: Any, settings: ClapSettings, dtype: torch.dtype, budget: Budget) -> None:
        self.sample_rate = settings.sample_rate
        self._network = network
        self._settings = settings
        self._dtype = dtype
        self._budget = budget

    @classmethod
    def load(cls, loading: Loading) -> Self:
        """Read the audio half of a transformers checkpoint folder: local safetensors only, no code from it is run.

        `batch_size` counts windows.

        Raises:
            OSError: the folder lacks a file.
            ValueError: its configuration or its weights are not those of CLAP.
        """
        settings = ClapSettings.read(loading.folder)
        config = ClapConfig.from_pretrained(loading.folder, local_files_only=True).audio_config
        network = _load_half(_AudioHalf, loading.folder, config, loading.dtype)
        budget = window_budget(loading, settings.window_seconds)
        return cls(network.to(loading.device), settings, loading.dtype, budget)

    def run(self, clips: Sequence[Clip]) -> list[ClapResult]:
        """Return one result per clip; an empty one is heard as silence.

        Raises:
            torch.OutOfMemoryError: one window alone is too much for the device.
        """
        waveforms = [clip.waveform for clip in clips]
        windows = cut([len(waveform) for waveform in waveforms], self._settings.window_samples)
        found = run_windows(windows, self._budget, lambda chosen: self._compute(waveforms, chosen))
        return [self._join(outputs, len(wave)) for outputs, wave in zip(found, waveforms, strict=True)]

    def rows(self, result: ClapResult, stage: ModelStage) -> list[dict[str, Any]]:
        """Return the embedding: one vector of length one, or with pooling `frames` one for each window."""
        pooling = stage.settings["pooling"]
        row = embedding_row(result.embeddings, pooling, LAYER, self._settings.window_seconds, result.samples)
        if pooling == "mean":
            row["vector"] = _of_length_one(row["vector"])
        return [row]

    @torch.inference_mode()
    def _compute(self, waveforms: Sequence[np.ndarray], windows: Sequence[Window]) -> list[np.ndarray]:
        """Return the embedding (dim,) of each window."""
        heard = [waveforms[one.owner][one.start : one.start + one.length] for one in windows]
        samples = np.stack([fill_window(one, self._settings) for one in heard])
        features = clap_features(send(torch.from_numpy(samples), self._network.device), self._settings)
        # One channel does for a fusion checkpoint too: of a clip that is not longer it hears the first of four alike.
        none_longer = torch.zeros(len(windows), 1, dtype=torch.bool, device=features.device)
        found = self._network(input_features=features.to(self._dtype), is_longer=none_longer).audio_embeds
        return list(functional.normalize(found.float(), dim=-1).cpu().numpy())

    def _join(self, outputs: Sequence[np.ndarray], count: int) -> ClapResult:
        """Make one result of the windows of a clip of `count` samples."""
        samples = [max(window.length, 1) for window in cut([count], self._settings.window_samples)]
        return ClapResult(np.stack(outputs), np.array(samples))


def fill_window(waveform: np.ndarray, settings: ClapSettings) -> np.ndarray:
    """Return a waveform, at most a window long, as float32 (window_samples,), padded as the checkpoint says."""
    filled = np.zeros(settings.window_samples, np.float32)
    if not len(waveform):
        return filled
    times = len(filled) // len(waveform)
    if settings.padding == "pad":
        times = 1
    elif settings.padding == "repeat":
        times += 1
    repeated = np.tile(waveform, times)[: len(filled)]
    filled[: len(repeated)] = repeated
    return filled


def clap_features(windows: torch.Tensor, settings: ClapSettings) -> torch.Tensor:
    """Return log-mel levels in dB, (windows, 1, frames, mel_bins) float32, of windows (n, window_samples) in [-1, 1].

    The spectrum is in float64, as in ClapFeatureExtractor: decibels of quiet bands beside loud ones need it, and it
    costs little beside the network.
    """
    window = torch.hann_window(settings.fft_samples, dtype=torch.float64, device=windows.device)
    spectrum = torch.stft(
        windows.double(),
        settings.fft_samples,
        settings.hop_samples,
        window=window,
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    power = spectrum.abs().square().transpose(1, 2) @ _mel_filters(settings, windows.device)
    return (10 * power.clamp(min=POWER_FLOOR).log10()).float().unsqueeze(1)


@lru_cache
@torch.inference_mode(False)
def _mel_filters(settings: ClapSettings, device: torch.device) -> torch.Tensor:
    """HTK's triangles where the checkpoint fuses, Slaney's of unit area where not: (bins, mel_bins) float64."""
    filters = mel_filter_bank(
        num_frequency_bins=settings.fft_samples // 2 + 1,
        num_mel_filters=settings.mel_bins,
        min_frequency=settings.mel_low,
        max_frequency=settings.mel_high,
        sampling_rate=settings.sample_rate,
        norm=None if settings.fusion else "slaney",
        mel_scale="htk" if settings.fusion else "slaney",
    )
    return torch.from_numpy(filters).to(device)


@torch.inference_mode()
def text_embedding(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """Return embeddings (texts, dim) of texts, float32, each of length one, computed on the CPU.

    Raises:
        OSError: the folder lacks a file of the tokenizer or the text half.
        ValueError: its weights are not those of CLAP, or a text is longer than it can read.
    """
    config = ClapConfig.from_pretrained(folder, local_files_only=True).text_config
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    network = _load_half(_TextHalf, folder, config, torch.float32)
    room = config.max_position_embeddings - config.pad_token_id - 1  # positions count from behind the padding's number
    found = []
    for text in texts:  # one by one: padding changes the last digits
        tokens = tokenizer(text, return_tensors="pt")
        if tokens["input_ids"].shape[1] > room:
            raise ValueError(f"the text has {tokens['input_ids'].shape[1]} tokens; it can read {room}")
        read = network(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        found.append(_of_length_one(read.text_embeds[0].numpy()))
    return np.stack(found)


def _load_half(kind: Any, folder: Path, config: Any, dtype: torch.dtype) -> Any:
    network, told = kind.from_pretrained(
        folder, config=config, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
    )
    refuse_gaps(told)
    return network.eval()


def _of_length_one(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return (vector / length).astype(np.float32) if length else vector
