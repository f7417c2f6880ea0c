"""What travels between the stages of the graph: one Arrow row a segment, and one closing row a recording.

A segment row carries its samples as int16 (32 kB a second at 16 kHz). The closing row of a recording comes after its
segments, has no segment index and no samples, and carries what is known only at the end: how long it was, what it
was, or why it failed. Stages add two columns each: their rows, and an error where a segment could not be done.
"""

from typing import Final

import pyarrow as pa

from schemas import tables


def _nullable(fields: list[pa.Field]) -> list[pa.Field]:
    """Drop descriptions and promises: on the wire a struct is null where there is nothing to say."""
    return [pa.field(field.name, field.type) for field in fields]


FAILURE: Final = pa.struct(
    [
        ("stage", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
        ("transient", pa.bool_()),
        ("attempts", pa.int32()),
    ]
)

CLOSING: Final = pa.struct(
    [
        *_nullable(tables.beyond_keys("recordings")),
        pa.field("n_segments", pa.int32()),
        pa.field("failure", FAILURE),
    ]
)

WIRE: Final = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("stages", pa.list_(pa.string())),  # ids of the stages this recording still needs
        pa.field("segment_index", pa.int32()),
        pa.field("start_seconds", pa.float64()),
        pa.field("end_seconds", pa.float64()),
        pa.field("speech_ratio", pa.float32()),
        pa.field("channel", pa.int32()),
        pa.field("reference", pa.string()),  # what the manifest says is spoken, where a stage wants to know
        pa.field("pcm", pa.binary()),
        pa.field("closing", CLOSING),
    ]
)

RECEIPT: Final = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("segment_index", pa.int32()),  # null: the closing row
        pa.field("n_segments", pa.int32()),  # on the closing row only
        pa.field("outcome", pa.string()),  # on the closing row only: ok, partial or failed
        pa.field("seconds", pa.float64()),  # on the closing row only: decoded audio
        pa.field("transient", pa.bool_()),  # on the closing row only: whether trying a failure again may help
        pa.field("failed_stages", pa.int32()),  # how many stages could not do this segment
    ]
)


ENHANCED: Final = "enhanced"
"""The wire column with the samples after noise reduction; null where no stage of the row hears it, or it failed."""

ENHANCE_PROBLEM: Final = "enhance_problem"
"""The wire column that says why a segment has no enhanced signal; the stages that hear it make it their failure."""

ERRORS: Final = "error:"
"""What the names of error columns start with."""


def rows_column(stage: str) -> str:
    """Return the wire column that holds what `stage` found: a list of the table's structs a segment."""
    return f"rows:{stage}"


def error_column(stage: str) -> str:
    """Return the wire column that says why `stage` could not do a segment; null where it could."""
    return f"{ERRORS}{stage}"


def rows_type(table: str) -> pa.DataType:
    """Return the type of a stage's rows column: list<struct<the table's columns beyond the keys>>."""
    return pa.list_(pa.struct(_nullable(tables.beyond_keys(table))))
