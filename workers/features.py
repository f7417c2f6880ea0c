"""The spectrogram stages: from segments' samples to rows of the table `spectrograms`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from schemas import tables, wire
from workers.results import StageError, append_columns, rows_that_need, waveforms
from workers.spectrogram_settings import SpectrogramSettings

if TYPE_CHECKING:
    from workers.spectrogram import Spectrogrammer


@dataclass(frozen=True, slots=True)
class SpectrogramStage:
    """One spectrogram of every segment: the stage's id and what to compute."""

    id: str
    settings: SpectrogramSettings


@lru_cache(maxsize=16)
def _spectrogrammer(settings: SpectrogramSettings, sample_rate: int) -> "Spectrogrammer":
    from workers.spectrogram import Spectrogrammer  # imports torch

    return Spectrogrammer(settings, sample_rate)


def add_spectrograms(table: pa.Table, stages: Sequence[SpectrogramStage], sample_rate: int) -> pa.Table:
    """Append the columns of each stage to a wire table."""
    for stage in stages:
        rows = rows_that_need(table, stage.id)
        worker = _spectrogrammer(stage.settings, sample_rate)
        found, errors = {}, {}
        for row, waveform in zip(rows, waveforms(table, rows), strict=True):
            try:
                found[row] = worker.compute(waveform)
            except Exception as error:  # one odd segment costs itself only
                errors[row] = StageError("model_failed", f"{type(error).__name__}: {error}")
        table = append_columns(table, stage.id, _column(table.num_rows, found, stage, worker), errors)
    return table


def _column(
    n_rows: int, found: dict[int, np.ndarray], stage: SpectrogramStage, worker: "Spectrogrammer"
) -> pa.ListArray:
    """Build list<struct<spectrogram>> without a Python object per value: one struct where one was computed."""
    spectrograms = [found[row] for row in sorted(found)]
    ends = np.cumsum([0] + [one.size for one in spectrograms])
    flat = np.concatenate([one.ravel() for one in spectrograms]) if spectrograms else np.zeros(0, np.float32)
    fields = tables.beyond_keys("spectrograms")
    columns = {
        "kind": pa.array([stage.settings.kind] * len(spectrograms), pa.string()),
        "n_frames": pa.array([len(one) for one in spectrograms], pa.int32()),
        "n_bins": pa.array([worker.n_bins] * len(spectrograms), pa.int32()),
        "hop_seconds": pa.array([worker.hop_seconds] * len(spectrograms), pa.float64()),
        "values": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(flat, pa.float32())),
    }
    structs = pa.StructArray.from_arrays([columns[field.name] for field in fields], [field.name for field in fields])
    counts = np.zeros(n_rows + 1, np.int32)
    counts[1:][sorted(found)] = 1
    offsets = pa.array(np.cumsum(counts, dtype=np.int32), pa.int32())
    return pa.ListArray.from_arrays(offsets, structs).cast(wire.rows_type("spectrograms"))
