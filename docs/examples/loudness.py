"""A model of one's own: how loud a segment is, as broadcasters measure it (ITU-R BS.1770-4), and its peak."""

from collections.abc import Sequence
from typing import Any, Self

import torch
import torchaudio.functional as F

from workers.models.model import Clip, Loading, ModelStage

SHORTEST = 0.4  # seconds: one gating block of BS.1770


class Loudness:
    """Loudness in LUFS and sample peak in dBFS, as an embedding of two numbers."""

    sample_rate = 16_000  # Hz: clips come at this rate, whatever the recipe's audio.sample_rate is
    version = 1  # raise it when the numbers change: old recordings are then computed anew

    def __init__(self, floor: float) -> None:
        self._floor = floor

    @classmethod
    def load(cls, loading: Loading) -> Self:
        """Take the options of the recipe; a model with weights reads them here, to `loading.device`."""
        settings = loading.settings("embeddings") or {}
        return cls(float(settings["options"].get("floor", -70.0)))

    def run(self, clips: Sequence[Clip]) -> list[list[float]]:
        """Return one result per clip, in order; an exception costs the clips that cause it, as failures."""
        return [self._measure(clip) for clip in clips]

    def rows(self, result: list[float], stage: ModelStage) -> list[dict[str, Any]]:
        """Return the rows of the stage's table: here one, of `embeddings`."""
        return [{"layer": None, "pooling": "mean", "dim": len(result), "vector": result}]

    def _measure(self, clip: Clip) -> list[float]:
        wave = torch.tensor(clip.waveform)[None]
        if wave.shape[1] < SHORTEST * self.sample_rate or not wave.any():
            return [self._floor, self._floor]
        loudness = float(F.loudness(wave, self.sample_rate))
        peak = float(20 * wave.abs().max().log10())
        return [max(loudness, self._floor) if loudness == loudness else self._floor, max(peak, self._floor)]
