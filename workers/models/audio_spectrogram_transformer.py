"""The Audio Spectrogram Transformer: tags and embeddings of windows of about ten seconds.

Source: transformers' ASTForAudioClassification and ASTModel, and ASTFeatureExtractor, whose numbers these are for a
clip that one window holds. What is longer the extractor cuts off; here the frames of the whole clip are cut into
consecutive windows. Each counts by the frames that it holds, padding apart: in the scores, and in the poolings `mean`
and `mean_std`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import torch
from torch.nn import functional
from transformers import ASTForAudioClassification, ASTModel

from workers.devices import send
from workers.models.ast_settings import CLASSIFIER, ENCODER, AstSettings
from workers.models.batching import Budget
from workers.models.checkpoint_files import refuse_gaps
from workers.models.fixed_windows import Window, cut, run_windows, window_budget
from workers.models.kaldi_fbank import HOP_SECONDS, frame_count, frame_samples, kaldi_fbank, samples_spanned
from workers.models.model import Clip, Loading, ModelStage
from workers.models.pooling import embedding_row
from workers.models.tagging import best_tags

LAYER: Final = "pooler_output"  # the mean of the class and the distillation token, after the last layer norm
_CLASSES: Final = {CLASSIFIER: ASTForAudioClassification, ENCODER: ASTModel}


@dataclass(frozen=True, slots=True)
class AstResult:
    """What was heard in one clip.

    Attributes:
        embeddings: (windows, dim) float32, the model's pooled output of each.
        scores: (labels,) float32 in [0, 1], the mean over the windows; empty where the model has no labels.
        frames: (windows,), how many frames of sound each window holds.
    """

    embeddings: np.ndarray
    scores: np.ndarray
    frames: np.ndarray


class AudioSpectrogramTransformer:
    """AST as a pool runs it."""

    def __init__(
        self, network: ASTForAudioClassification | ASTModel, settings: AstSettings, dtype: torch.dtype, budget: Budget
    ) -> None:
        self.sample_rate = settings.sample_rate
        self._network = network
        self._settings = settings
        self._dtype = dtype
        self._budget = budget

    @classmethod
    def load(cls, loading: Loading) -> Self:
        """Read a transformers checkpoint folder: local safetensors only, no code from the folder is run.

        `batch_size` counts windows.

        Raises:
            OSError: the folder lacks a file.
            ValueError: its configuration or its weights are not those of an AST.
        """
        settings = AstSettings.read(loading.folder)
        network, told = _CLASSES[settings.architecture].from_pretrained(
            loading.folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=loading.dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
        refuse_gaps(told)
        budget = window_budget(loading, settings.frames * HOP_SECONDS)
        return cls(network.to(loading.device).eval(), settings, loading.dtype, budget)

    def run(self, clips: Sequence[Clip]) -> list[AstResult]:
        """Return one result per clip; one shorter than a frame of 25 ms is filled up with silence.

        Raises:
            torch.OutOfMemoryError: one window alone is too much for the device.
        """
        counts = [frame_count(len(clip.waveform), self.sample_rate) for clip in clips]
        windows = cut(counts, self._settings.frames)
        waveforms = [clip.waveform for clip in clips]
        found = run_windows(windows, self._budget, lambda chosen: self._compute(waveforms, chosen))
        return [_join(outputs, count, self._settings.frames) for outputs, count in zip(found, counts, strict=True)]

    def rows(self, result: AstResult, stage: ModelStage) -> list[dict[str, Any]]:
        """Return the embedding, or the best tags."""
        if stage.table == "tags":
            return best_tags(result.scores, self._settings.labels, stage.settings["top_k"])
        hop = self._settings.frames * HOP_SECONDS
        return [embedding_row(result.embeddings, stage.settings["pooling"], LAYER, hop, result.frames)]

    @torch.inference_mode()
    def _compute(self, waveforms: Sequence[np.ndarray], windows: Sequence[Window]) -> list[tuple[np.ndarray, ...]]:
        """Return the embedding (dim,) and the scores (labels,) of each window."""
        samples = send(torch.from_numpy(self._samples(waveforms, windows)), self._network.device)
        counts = send(torch.tensor([window.length for window in windows]), self._network.device)
        features = ast_features(samples, counts, self._settings).to(self._dtype)
        if isinstance(self._network, ASTModel):
            embeddings = self._network(features).pooler_output.float()
            scores = embeddings[:, :0]
        else:
            pooled = self._network.audio_spectrogram_transformer(features).pooler_output
            embeddings, scores = pooled.float(), self._scores(self._network.classifier(pooled).float())
        return list(zip(embeddings.cpu().numpy(), scores.cpu().numpy(), strict=True))

    def _scores(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.sigmoid() if self._settings.scores == "sigmoid" else logits.softmax(dim=-1)

    def _samples(self, waveforms: Sequence[np.ndarray], windows: Sequence[Window]) -> np.ndarray:
        """Return what the frames of the windows see, (windows, samples) float32, zeros behind the shorter ones."""
        _, hop = frame_samples(self.sample_rate)
        longest = max(window.length for window in windows)
        samples = np.zeros((len(windows), samples_spanned(longest, self.sample_rate)), np.float32)
        for row, window in zip(samples, windows, strict=True):
            first = window.start * hop
            part = waveforms[window.owner][first : first + samples_spanned(window.length, self.sample_rate)]
            row[: len(part)] = part
        return samples


def ast_features(samples: torch.Tensor, counts: torch.Tensor, settings: AstSettings) -> torch.Tensor:
    """Return the network's input (windows, settings.frames, mel_bins) of samples (windows, n), at most a window long.

    `counts`, shape (windows,), is how many frames of each are sound; the others are zero before normalising, as
    ASTFeatureExtractor pads. float32, on the device of the samples.
    """
    log_mel = kaldi_fbank(samples, settings.mel_bins, settings.sample_rate)
    heard = torch.arange(log_mel.shape[1], device=samples.device) < counts[:, None]
    log_mel = log_mel.masked_fill(~heard[..., None], 0.0)
    features = functional.pad(log_mel, (0, 0, 0, settings.frames - log_mel.shape[1]))
    return features if settings.mean is None else (features - settings.mean) / (2 * settings.deviation)


def _join(outputs: Sequence[tuple[np.ndarray, ...]], count: int, size: int) -> AstResult:
    """Make one result of a clip's windows; `count` frames in windows of `size`."""
    frames = np.array([window.length for window in cut([count], size)])
    embeddings, scores = (np.stack(part) for part in zip(*outputs, strict=True))
    return AstResult(embeddings, np.average(scores, axis=0, weights=frames).astype(np.float32), frames)
