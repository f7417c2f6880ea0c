"""The spectrogram stages: from segments' samples to rows of the table `spectrograms`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas import tables, wire
from workers.results import StageError, append_columns, rows_that_need, unheard, waveforms
from workers.samples import INT16_BYTES
from workers.spectrogram_settings import SpectrogramSettings

if TYPE_CHECKING:
    from workers.spectrogram import Spectrogrammer


@dataclass(frozen=True, slots=True)
class SpectrogramStage:
    """One spectrogram of every segment: the stage's id, what to compute, and the wire column that it is computed of."""

    id: str
    settings: SpectrogramSettings
    signal: str = "pcm"


@lru_cache(maxsize=16)
def _spectrogrammer(settings: SpectrogramSettings, sample_rate: int) -> "Spectrogrammer":
    from workers.spectrogram import Spectrogrammer  # imports torch

    return Spectrogrammer(settings, sample_rate)


def add_spectrograms(table: pa.Table, stages: Sequence[SpectrogramStage], sample_rate: int) -> pa.Table:
    """Append the columns of each stage to a wire table."""
    for stage in stages:
        needed = rows_that_need(table, stage.id)
        errors = unheard(table, needed, stage.signal)
        rows = [row for row in needed if row not in errors]
        worker = _spectrogrammer(stage.settings, sample_rate)
        room = _n_frames(table[stage.signal], rows, worker)
        values = np.empty((room, worker.n_bins), np.float32)  # what pages it takes, it needs
        n_frames: dict[int, int] = {}
        end = 0
        for row, waveform in zip(rows, waveforms(table, rows, stage.signal), strict=True):
            try:
                found = worker.compute(waveform)
                values[end : end + len(found)] = found
                n_frames[row], end = len(found), end + len(found)
            except Exception as error:  # one odd segment costs itself only
                errors[row] = StageError("model_failed", f"{type(error).__name__}: {error}")
        table = append_columns(table, stage.id, _column(table.num_rows, n_frames, values[:end], stage, worker), errors)
    return table


def _n_frames(samples: pa.ChunkedArray, rows: Sequence[int], worker: "Spectrogrammer") -> int:
    """Return how many frames some segments have together."""
    n_bytes = pc.binary_length(samples).take(pa.array(rows, pa.int64())).to_pylist()
    return sum(worker.n_frames(length // INT16_BYTES) for length in n_bytes)


def _column(
    n_rows: int, n_frames: dict[int, int], values: np.ndarray, stage: SpectrogramStage, worker: "Spectrogrammer"
) -> pa.ListArray:
    """Build list<struct<spectrogram>> without a Python object per value: one struct where one was computed.

    `values` are the frames of all, one segment after the other, shape (frames, bins).
    """
    counts_of_frames = [n_frames[row] for row in sorted(n_frames)]
    ends = np.cumsum([0, *counts_of_frames]) * worker.n_bins
    fields = tables.beyond_keys("spectrograms")
    columns = {
        "kind": pa.array([stage.settings.kind] * len(n_frames), pa.string()),
        "n_frames": pa.array(counts_of_frames, pa.int32()),
        "n_bins": pa.array([worker.n_bins] * len(n_frames), pa.int32()),
        "hop_seconds": pa.array([worker.hop_seconds] * len(n_frames), pa.float64()),
        "values": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values.reshape(-1), pa.float32())),
    }
    structs = pa.StructArray.from_arrays([columns[field.name] for field in fields], [field.name for field in fields])
    counts = np.zeros(n_rows + 1, np.int32)
    counts[1:][sorted(n_frames)] = 1
    offsets = pa.array(np.cumsum(counts, dtype=np.int32), pa.int32())
    return pa.ListArray.from_arrays(offsets, structs).cast(wire.rows_type("spectrograms"))
