"""Model actors: one per pool member, each a model that adds its stages' rows to wire tables.

The classes know nothing of Ray; a pool makes them with `PoolMember(spec)` and calls them with a table. An error of the
model costs the segments that cause it, never the table.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from workers.results import StageError, append_results, rows_that_need, waveforms
from workers.weights import Checkpoint, ModelError, resolve

if TYPE_CHECKING:
    from workers.whisper import Transcript
    from workers.yamnet import YamnetResult

logger = logging.getLogger(__name__)

SILENCE_SAMPLES = 16_000  # one second
YAMNET_CPU_PATCHES = 64  # a batch that fits a core's cache: 1.3 times as fast as 256 on a CPU
YAMNET_GPU_PATCHES = 1024

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ModelStage:
    """One table that a model fills: stage id, table, and the settings of its section of the recipe."""

    id: str
    table: str
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What the members of one pool share.

    Attributes:
        model: the model's name, resolved again on each node.
        kind: which model class runs it.
        digest: what the weights must be; a node that has others refuses.
        stages: the tables it fills, from one pass over the audio.
        threads: CPU threads of each member.
        batch_size: windows or waveforms together on the device.
    """

    model: str
    kind: str
    digest: str
    stages: tuple[ModelStage, ...]
    threads: int
    batch_size: int


class _Model(Protocol[_Result]):
    def run(self, waveforms: Sequence[np.ndarray]) -> list[_Result]:
        """Return one result per waveform, in order."""

    def rows(self, result: _Result, stage: ModelStage) -> list[dict[str, Any]]:
        """Return what `stage`'s table gets from a result, without model and revision."""


class PoolMember(Generic[_Result]):
    """One member of a model pool: takes wire tables, returns them with the model's columns."""

    def __init__(self, spec: PoolSpec) -> None:
        from workers.devices import use_threads

        use_threads(spec.threads)
        checkpoint = resolve(spec.model)
        if checkpoint.digest != spec.digest:
            raise ModelError(
                f"model {spec.model} has digest {checkpoint.digest[:16]} on this node and {spec.digest[:16]} where the "
                "run was planned; install the same package versions on every node, or use a shared folder"
            )
        self._spec = spec
        self._names = {"model": checkpoint.name, "revision": checkpoint.revision}
        self._model: _Model[Any] = _LOADERS[checkpoint.kind](checkpoint, spec)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Append the columns of the pool's stages."""
        needed = [rows_that_need(table, stage.id) for stage in self._spec.stages]
        rows = sorted({row for stage_rows in needed for row in stage_rows})
        results = dict(zip(rows, self._results(list(waveforms(table, rows))), strict=True))
        for stage, stage_rows in zip(self._spec.stages, needed, strict=True):
            found = {row: self._rows(results[row], stage) for row in stage_rows}
            errors = {row: one for row in stage_rows if isinstance(one := results[row], StageError)}
            table = append_results(table, stage.id, stage.table, found, errors)
        return table

    def _rows(self, result: Any, stage: ModelStage) -> list[dict[str, Any]]:
        if isinstance(result, StageError):
            return []
        return [{**self._names, **row} for row in self._model.rows(result, stage)]

    def _results(self, waves: list[np.ndarray]) -> list[Any]:
        """Run the model; where it raises, halve until the segments that cause it stand alone."""
        if not waves:
            return []
        try:
            return self._model.run(waves)
        except Exception as error:  # a model may raise anything on odd input
            if len(waves) == 1:
                self._prove_alive(error)
                logger.warning("%s failed on a segment: %s", self._spec.model, error)
                return [StageError("model_failed", f"{self._spec.model}: {type(error).__name__}: {error}")]
        middle = len(waves) // 2
        return self._results(waves[:middle]) + self._results(waves[middle:])

    def _prove_alive(self, error: Exception) -> None:
        """Raise `error` where the model cannot do silence either: then not the segment is at fault."""
        try:
            self._model.run([np.zeros(SILENCE_SAMPLES, np.float32)])
        except Exception:  # whatever it is, the model is dead
            raise error from None


# Models are imported by who loads them: a task that only decodes need not wait seconds for torch and transformers.


class _YamnetModel:
    def __init__(self, checkpoint: Checkpoint, spec: PoolSpec) -> None:
        from workers.devices import choose_device, choose_dtype
        from workers.yamnet import Yamnet

        device = choose_device()
        patches = YAMNET_GPU_PATCHES if device.type == "cuda" else YAMNET_CPU_PATCHES
        self._yamnet = Yamnet.load(checkpoint.folder, device, max_patches=patches, dtype=choose_dtype(device))

    def run(self, waveforms: Sequence[np.ndarray]) -> "list[YamnetResult]":
        return self._yamnet.run(waveforms)

    def rows(self, result: "YamnetResult", stage: ModelStage) -> list[dict[str, Any]]:
        if stage.table == "embeddings":
            vector = {"dim": len(result.embedding), "vector": result.embedding}
            return [{"layer": "global average pool", "pooling": "mean", **vector}]
        best = np.argsort(-result.scores, kind="stable")[: stage.settings["top_k"]]
        return [{"label": self._yamnet.classes[label], "score": float(result.scores[label])} for label in best]


class _WhisperModel:
    def __init__(self, checkpoint: Checkpoint, spec: PoolSpec) -> None:
        from workers.devices import choose_device, choose_dtype
        from workers.whisper import Whisper, WhisperOptions

        device = choose_device()
        settings = spec.stages[0].settings
        options = WhisperOptions(settings["language"], settings["task"], spec.batch_size)
        self._whisper = Whisper.load(checkpoint.folder, device, choose_dtype(device), options)

    def run(self, waveforms: Sequence[np.ndarray]) -> "list[Transcript]":
        return self._whisper.transcribe(waveforms)

    def rows(self, result: "Transcript", stage: ModelStage) -> list[dict[str, Any]]:
        return [
            {
                "language": result.language,
                "language_probability": result.language_probability,
                "text": result.text,
                "avg_logprob": result.avg_logprob,
                "compression_ratio": result.compression_ratio,
                "no_speech_probability": result.no_speech_probability,
                "temperature": result.temperature,
                "flags": list(result.flags),
            }
        ]


_LOADERS: dict[str, Callable[[Checkpoint, PoolSpec], _Model[Any]]] = {
    "yamnet": _YamnetModel,
    "whisper": _WhisperModel,
}
