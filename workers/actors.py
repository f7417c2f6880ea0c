"""Model actors: one per pool member, each a model that adds its stages' rows to wire tables.

The class knows nothing of Ray; a pool makes members with `PoolMember(spec)` and calls them with a table. An error of
the model costs the segments that cause it, never the table.
"""

import logging
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import soxr

from workers.models.kinds import KINDS
from workers.models.model import Clip, Loading, ModelStage, told_language
from workers.results import StageError, append_results, clips, rows_of_segment, rows_that_need, unheard
from workers.weights import ModelError, resolve

logger = logging.getLogger(__name__)

SILENCE_SECONDS: Final = 1


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What the members of one pool share.

    Attributes:
        model: the model's name, resolved again on each node.
        kind: which model class runs it, one of workers.models.kinds.KINDS.
        digest: what the weights must be; a node that has others refuses.
        stages: the tables it fills, from one pass over the audio.
        threads: CPU threads of each member.
        batch_size: windows or patches together on the device.
        batch_seconds: seconds of audio together on the device, padding included.
        sample_rate: of the samples on the wire, Hz.
        dtype: precision of the network; `auto` is half precision on a GPU and float32 on a CPU.
    """

    model: str
    kind: str
    digest: str
    stages: tuple[ModelStage, ...]
    threads: int
    batch_size: int
    batch_seconds: float = 120.0
    sample_rate: int = 16_000
    dtype: str = "auto"


class PoolMember:
    """One member of a model pool: takes wire tables, returns them with the model's columns."""

    def __init__(self, spec: PoolSpec) -> None:
        from workers.devices import choose_device, choose_dtype, use_threads

        use_threads(spec.threads)
        checkpoint = resolve(spec.model, told_language(spec.stages))
        if checkpoint.digest != spec.digest:
            raise ModelError(
                f"model {spec.model} has digest {checkpoint.digest[:16]} on this node and {spec.digest[:16]} where the "
                "run was planned; install the same package versions on every node, or use a shared folder"
            )
        self._spec = spec
        self._revision = checkpoint.revision
        device = choose_device()
        dtype = choose_dtype(device, spec.dtype)
        loading = Loading(
            checkpoint.folder, device, dtype, spec.stages, spec.batch_size, spec.batch_seconds, spec.model
        )
        try:
            self._model = KINDS[checkpoint.kind].load(loading)
        except Exception as error:  # whatever a library says of a checkpoint
            raise ModelError(
                f"model {spec.model} cannot be loaded from {checkpoint.folder}: {type(error).__name__}: {error}; "
                "try another checkpoint, or take it out of the recipe"
            ) from error

    def __call__(self, table: pa.Table) -> pa.Table:
        """Append the columns of the pool's stages."""
        needed = {stage.id: rows_that_need(table, stage.id) for stage in self._spec.stages}
        results: dict[tuple[str, int], Any] = {}
        for signal in sorted({stage.signal for stage in self._spec.stages}):
            of_signal = [needed[stage.id] for stage in self._spec.stages if stage.signal == signal]
            rows = sorted({row for stage_rows in of_signal for row in stage_rows})
            errors = unheard(table, rows, signal)
            rows = [row for row in rows if row not in errors]
            heard = self._results([self._resampled(clip) for clip in clips(table, rows, signal)])
            results |= {(signal, row): result for row, result in zip(rows, heard, strict=True)}
            results |= {(signal, row): error for row, error in errors.items()}
        for stage in self._spec.stages:
            found = {row: self._rows(results[stage.signal, row], stage) for row in needed[stage.id]}
            errors = {row: one for row, one in found.items() if isinstance(one, StageError)}
            good = {row: one for row, one in found.items() if not isinstance(one, StageError)}
            table = append_results(table, stage.id, stage.table, good, errors)
        return table

    def hear_silence(self) -> dict[str, int]:
        """Return how many rows a second of silence gives each stage, by id; raise what the model raises."""
        [result] = self._model.run([self._silence()])
        return {stage.id: len(self._model.rows(result, stage)) for stage in self._spec.stages}

    def _silence(self) -> Clip:
        return Clip(np.zeros(SILENCE_SECONDS * self._model.sample_rate, np.float32))

    def _resampled(self, clip: Clip) -> Clip:
        ours, theirs = self._spec.sample_rate, self._model.sample_rate
        if ours == theirs or not len(clip.waveform):
            return clip
        waveform = soxr.resample(clip.waveform, ours, theirs, quality="HQ")
        return Clip(waveform, clip.start_seconds, clip.recording_id, clip.reference)

    def _rows(self, result: Any, stage: ModelStage) -> pa.ListArray | StageError:
        if isinstance(result, StageError):
            return result
        try:
            rows = self._model.rows(result, stage)
            named = [{"model": stage.name, "revision": self._revision, **row} for row in rows]
            return rows_of_segment(stage.table, named)
        except Exception as error:  # a model may raise anything on odd input, and a class of the user's give anything
            return self._failed(error)

    def _results(self, heard: list[Clip]) -> list[Any]:
        """Run the model; where it raises, halve until the segments that cause it stand alone."""
        if not heard:
            return []
        try:
            return self._model.run(heard)
        except Exception as error:  # a model may raise anything on odd input
            if len(heard) == 1:
                self._prove_alive(error)
                logger.warning("%s failed on a segment: %s", self._spec.model, error)
                return [self._failed(error)]
        middle = len(heard) // 2
        return self._results(heard[:middle]) + self._results(heard[middle:])

    def _failed(self, error: Exception) -> StageError:
        return StageError("model_failed", f"{self._spec.model}: {type(error).__name__}: {error}")

    def _prove_alive(self, error: Exception) -> None:
        """Raise `error` where the model cannot do silence either: then not the segment is at fault."""
        try:
            self._model.run([self._silence()])
        except Exception:  # whatever it is, the model is dead
            raise error from None
