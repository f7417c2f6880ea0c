"""The clips stage: the samples of segments as FLAC files in a column, in the struct of Hugging Face's Audio feature."""

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import soundfile

from schemas import ids, tables, wire
from workers.columns import as_array
from workers.results import StageError, append_columns, rows_that_need
from workers.samples import INT16_BYTES

FORMAT: Final = "flac"


def add_clips(table: pa.Table, stages: Sequence[str], sample_rate: int) -> pa.Table:
    """Append the columns of each stage, given by its id, to a wire table; what is encoded are the samples themselves.

    A segment that cannot be encoded costs itself only.
    """
    for stage in stages:
        files: dict[int, bytes] = {}
        errors: dict[int, StageError] = {}
        pcm = as_array(table["pcm"])
        for row in rows_that_need(table, stage):
            try:
                files[row] = encode(np.frombuffer(pcm[row].as_buffer(), np.int16), sample_rate)
            except Exception as error:  # whatever the library says
                errors[row] = StageError("encode_failed", f"{FORMAT}: {type(error).__name__}: {error}")
        table = append_columns(table, stage, _column(table, files, sample_rate), errors)
    return table


def encode(samples: np.ndarray, sample_rate: int) -> bytes:
    """Return int16 samples, shape (n,), as a FLAC file that decodes to exactly them.

    Raises:
        ValueError: there are none.
        soundfile.LibsndfileError: the library cannot encode them.
    """
    if not len(samples):
        raise ValueError("the segment has no samples")
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _column(table: pa.Table, files: dict[int, bytes], sample_rate: int) -> pa.ListArray:
    """Build list<struct<clip>>: one struct where a segment was encoded."""
    rows = pa.array(files, pa.int64())
    light = table.select(["recording_id", "segment_index"]).take(rows)
    names = ids.segment_ids(light["recording_id"], light["segment_index"])
    paths = as_array(pc.binary_join_element_wise(names, FORMAT, "."))
    audio = pa.StructArray.from_arrays([pa.array(files.values(), pa.binary()), paths], fields=list(tables.AUDIO))
    n_bytes = as_array(pc.binary_length(table["pcm"])).take(rows)
    columns = {
        "format": pa.array([FORMAT] * len(files), pa.string()),
        "sampling_rate": pa.array([sample_rate] * len(files), pa.int32()),
        "seconds": pc.divide(n_bytes.cast(pa.float64()), sample_rate * INT16_BYTES),
        "audio": audio,
    }
    fields = [field.name for field in tables.beyond_keys("clips")]
    structs = pa.StructArray.from_arrays([columns[field] for field in fields], fields)
    counts = np.zeros(table.num_rows + 1, np.int32)
    counts[1:][list(files)] = 1
    offsets = pa.array(np.cumsum(counts, dtype=np.int32), pa.int32())
    return pa.ListArray.from_arrays(offsets, structs).cast(wire.rows_type("clips"))
