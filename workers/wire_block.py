"""Collecting segments and closing rows until they are worth an Arrow table of schema schemas.wire.WIRE."""

import math
from typing import Any

import numpy as np
import pyarrow as pa

from schemas import wire
from schemas.failures import TRANSIENT
from workers.decoded import AudioInfo, Ending
from workers.objects import Fetched
from workers.recording import Recording
from workers.segments import Segment

_Row = tuple[Recording, Segment | None, dict[str, Any] | None]
"""A recording with a segment of it, or with its closing row."""


class WireBlock:
    """Collects rows until they are worth an Arrow table of schema schemas.wire.WIRE."""

    def __init__(
        self,
        sample_rate: int,
        block_seconds: float,
        reference_column: str | None = None,
        whole_seconds: float = math.inf,
    ) -> None:
        """Take how much audio is worth a table, and the manifest's column with what is spoken.

        Who is longer than `whole_seconds` is cut, and has no reference.
        """
        self._sample_rate = sample_rate
        self._block_samples = block_seconds * sample_rate
        self._reference_column = reference_column
        self._whole_samples = whole_seconds * sample_rate
        self._samples = 0
        self._rows: list[_Row] = []

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return len(self._rows)

    @property
    def is_full(self) -> bool:
        """Whether the rows that wait are worth a table."""
        return self._samples >= self._block_samples

    def add(self, recording: Recording, segments: list[Segment]) -> None:
        """Add segment rows."""
        for segment in segments:
            self._rows.append((recording, segment, None))
            self._samples += len(segment.pcm)

    def close(
        self,
        recording: Recording,
        info: AudioInfo,
        ending: Ending,
        fetched: Fetched,
        n_segments: int,
        speech_samples: int | None,
    ) -> None:
        """Add the closing row of a recording that decoded, wholly or in part."""
        closing = {
            **_source_columns(recording),
            "size_bytes": fetched.size_bytes,
            "container": info.container,
            "codec": info.codec,
            "sample_rate": info.sample_rate,
            "channels": info.channels,
            "declared_seconds": info.declared_seconds,
            "decoded_seconds": ending.decoded_seconds,
            "speech_seconds": None if speech_samples is None else speech_samples / self._sample_rate,
            "content_sha256": fetched.sha256,
            "status": "partial" if ending.damage else "ok",
            "decoder": info.decoder,
            "n_segments": n_segments,
        }
        self._rows.append((recording, None, closing))

    def close_failed(self, recording: Recording, stage: str, code: str, message: str, attempts: int = 1) -> None:
        """Add the closing row of a recording that failed; segments it gave before do not count."""
        failure = {
            "stage": stage,
            "code": code,
            "message": message,
            "transient": code in TRANSIENT,
            "attempts": attempts,
        }
        closing = {**_source_columns(recording), "status": "failed", "n_segments": 0, "failure": failure}
        self._rows.append((recording, None, closing))

    def _reference(self, recording: Recording, segment: Segment) -> str | None:
        if self._reference_column is None or segment.index or len(segment.pcm) >= self._whole_samples:
            return None
        return dict(recording.metadata).get(self._reference_column)

    def take(self) -> pa.Table:
        """Return the first rows as a table: as many as are worth one, or all where they are not.

        Many may come at once, and a table has room for 2 GiB of samples.
        """
        rows = self._first()
        segments = [segment for _, segment, _ in rows]
        rate = self._sample_rate
        columns = [
            [recording.recording_id for recording, _, _ in rows],
            [recording.source.uri for recording, _, _ in rows],
            [recording.stages_of(segment.index if segment else None) for recording, segment, _ in rows],
            [segment and segment.index for segment in segments],
            [segment and segment.start / rate for segment in segments],
            [segment and segment.end / rate for segment in segments],
            [segment and segment.speech_ratio for segment in segments],
            [segment and segment.channel for segment in segments],
            [segment and self._reference(recording, segment) for recording, segment, _ in rows],
            _pcm_column(segments),
            [closing for _, _, closing in rows],
        ]
        arrays = [
            values if isinstance(values, pa.Array) else pa.array(values, field.type)
            for values, field in zip(columns, wire.WIRE, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=wire.WIRE)

    def _first(self) -> "list[_Row]":
        """Take the first rows away, up to the one that makes them worth a table."""
        samples = count = 0
        while count < len(self._rows) and samples < self._block_samples:
            segment = self._rows[count][1]
            samples += len(segment.pcm) if segment else 0
            count += 1
        first, self._rows = self._rows[:count], self._rows[count:]
        self._samples -= samples
        return first


def _pcm_column(segments: list[Segment | None]) -> pa.Array:
    """Return the samples as binary values, copied once; null where there is no segment."""
    lengths = [0 if segment is None else segment.pcm.nbytes for segment in segments]
    offsets = np.cumsum([0, *lengths], dtype=np.int32)
    pcm = [segment.pcm for segment in segments if segment is not None]
    samples = np.concatenate(pcm) if pcm else np.zeros(0, np.int16)
    valid = pa.array([segment is not None for segment in segments]).buffers()[1]
    nulls = len(segments) - len(pcm)
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(segments), [valid, pa.py_buffer(offsets), pa.py_buffer(samples)], nulls
    )


def _source_columns(recording: Recording) -> dict[str, Any]:
    source = recording.source
    return {
        "uri": source.uri,
        "etag": source.etag,
        "size_bytes": source.size_bytes,
        "metadata": recording.metadata,
    }
