"""What every model is to a pool: three methods, on clips of one sampling rate.

A model of your own needs the same three; see docs/own_models.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class ModelStage:
    """One table that a model fills: stage id, table, the settings of its section of the recipe, and what it hears.

    `signal` is the wire column with its samples: `pcm`, or `enhanced`.
    """

    id: str
    table: str
    settings: dict[str, Any]
    signal: str = "pcm"

    @property
    def name(self) -> str:
        """What the rows call the model."""
        return self.id.partition("/")[2]


def told_language(stages: Sequence[ModelStage]) -> str | None:
    """Return the language that a recipe says the stages of a model hear; None where it says none."""
    told = (stage.settings.get("language") for stage in stages)
    return next((language for language in told if language is not None), None)


@dataclass(frozen=True, slots=True)
class Clip:
    """One segment as a model gets it.

    Attributes:
        waveform: float32, shape (n,), in [-1, 1), at the model's sampling rate; n may be 0.
        start_seconds: where it begins in its recording.
        recording_id: which recording it was cut from.
        reference: what the manifest says is spoken in it; None where it says nothing.
    """

    waveform: np.ndarray
    start_seconds: float = 0.0
    recording_id: str = ""
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Loading:
    """What a model is loaded from and for.

    Attributes:
        folder: the checkpoint on this node; of a class of your own, where its module is.
        device: where it runs.
        dtype: precision of its network; front-ends and poolings are float32.
        stages: the tables it fills, with their settings.
        batch_size: windows or patches together on the device, at most; what a family makes of it, it says.
        batch_seconds: seconds of audio together on the device, padding included, at most.
        name: the model's, as the recipe has it.
    """

    folder: Path
    device: "torch.device"
    dtype: "torch.dtype"
    stages: tuple[ModelStage, ...]
    batch_size: int
    batch_seconds: float
    name: str = ""

    def settings(self, table: str) -> dict[str, Any] | None:
        """Return the settings of the stage that fills `table`; None where the model does not."""
        return next((stage.settings for stage in self.stages if stage.table == table), None)


class Model(Protocol):
    """A model on one device. What else is in a call must not change what comes of a clip."""

    sample_rate: int
    """Hz; clips come at this rate."""

    @classmethod
    def load(cls, loading: Loading) -> Self:
        """Read the checkpoint; raise whatever says why it cannot be had."""

    def run(self, clips: Sequence[Clip]) -> list[Any]:
        """Return one result per clip, in order."""

    def rows(self, result: Any, stage: ModelStage) -> list[dict[str, Any]]:
        """Return what a result gives the stage's table: its columns but for keys, segment_id, model and revision."""
