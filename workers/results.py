"""How a stage writes what it found into a wire table: two columns, its rows and its errors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas import tables, wire
from workers.columns import as_array, is_finite
from workers.models.model import Clip
from workers.samples import INT16_SCALE

MESSAGE_CHARACTERS: Final = 500


@dataclass(frozen=True, slots=True)
class StageError:
    """A segment that a stage could not do; becomes a failure row of that stage alone."""

    code: str
    message: str


def rows_that_need(table: pa.Table, stage: str) -> list[int]:
    """Return the positions of the segments that still need `stage`."""
    wanted = table["stages"].to_pylist()
    segments = pc.is_valid(table["segment_index"]).to_pylist()
    return [row for row, stages in enumerate(wanted) if segments[row] and stage in stages]


def unheard(table: pa.Table, rows: Sequence[int], signal: str) -> dict[int, StageError]:
    """Return those of `rows` that have no samples in the column `signal`, because they could not be made, and why."""
    if signal != wire.ENHANCED:
        return {}
    told = table[wire.ENHANCE_PROBLEM]
    problems = {row: told[row].as_py() for row in rows}
    return {row: StageError("model_failed", f"enhance: {one}") for row, one in problems.items() if one is not None}


def waveforms(table: pa.Table, rows: Sequence[int], signal: str = "pcm") -> Iterator[np.ndarray]:
    """Yield the samples of some segments as float32 in [-1, 1), shape (n,) each; a model may want them all at once."""
    pcm = as_array(table[signal])
    for row in rows:
        yield np.frombuffer(pcm[row].as_buffer(), np.int16).astype(np.float32) / np.float32(INT16_SCALE)


def clips(table: pa.Table, rows: Sequence[int], signal: str) -> Iterator[Clip]:
    """Yield some segments as models get them; `signal` is the column with their samples."""
    told = table.select(["start_seconds", "recording_id", "reference"]).take(pa.array(rows, pa.int64())).to_pylist()
    for waveform, row in zip(waveforms(table, rows, signal), told, strict=True):
        yield Clip(waveform, row["start_seconds"] or 0.0, row["recording_id"], row["reference"])


def rows_of_segment(kind: str, rows: Sequence[dict[str, Any]]) -> pa.ListArray:
    """Return what a stage found in one segment as an array of one list of table `kind`'s structs.

    Raises:
        pa.ArrowException, TypeError: a value is not of its column's type.
        ValueError: a row has a column that the table has not, or lacks one that it must have; or a number is NaN or
            infinite.
    """
    fields = {field.name: field for field in tables.beyond_keys(kind)}
    for row in rows:
        if unknown := row.keys() - fields.keys():
            raise ValueError(f"{kind} has no column {', '.join(sorted(unknown))}")
        if missing := [name for name, field in fields.items() if not field.nullable and row.get(name) is None]:
            raise ValueError(f"{kind} needs {', '.join(missing)}")
    array = pa.array([rows], wire.rows_type(kind))
    if not is_finite(array):
        raise ValueError("a number is none (NaN or infinity)")
    return array


def append_results(
    table: pa.Table, stage: str, kind: str, rows_of: dict[int, pa.ListArray], errors: dict[int, StageError]
) -> pa.Table:
    """Append a stage's two columns; `rows_of` gives what rows_of_segment made for each position that has any."""
    none = pa.array([[]], wire.rows_type(kind))
    rows = pa.concat_arrays([none[:0], *(rows_of.get(row, none) for row in range(table.num_rows))])
    return append_columns(table, stage, rows, errors)


def append_columns(table: pa.Table, stage: str, rows: pa.Array, errors: dict[int, StageError]) -> pa.Table:
    """Append a stage's rows column, already built, and its error column."""
    failures = [_failure(stage, errors.get(row)) for row in range(table.num_rows)]
    table = table.append_column(wire.rows_column(stage), rows)
    return table.append_column(wire.error_column(stage), pa.array(failures, wire.FAILURE))


def _failure(stage: str, error: StageError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    message = error.message[:MESSAGE_CHARACTERS]
    return {"stage": stage, "code": error.code, "message": message, "transient": False, "attempts": 1}
