"""The steps of the graph with a meter on them: what Ray Data runs instead of the bare step."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.meter import Meter, key
from workers.actors import PoolMember, PoolSpec
from workers.models.fill import take_fill
from workers.recording import Recording
from workers.results import rows_that_need

INGEST: Final = key("stage_seconds", stage="ingest")
ENHANCE: Final = key("stage_seconds", stage="enhance")
SPECTROGRAMS: Final = key("stage_seconds", stage="spectrograms")
CLIPS: Final = key("stage_seconds", stage="clips")
WRITE: Final = key("stage_seconds", stage="write")
STAGED: Final = key("staged_audio_seconds")


@dataclass(slots=True)
class ReadBytes:
    """Counts the bytes of recordings on their way to the decoder."""

    size_bytes: int = 0

    def counted(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        """Yield the recordings."""
        for recording in recordings:
            self.size_bytes += 0 if recording.problem else recording.source.size_bytes
            yield recording


def metered_ingest(blocks: Iterator[pa.Table], read: ReadBytes, meter: Meter) -> Iterator[pa.Table]:
    """Yield what ingesting gives, and count the seconds it takes and the bytes it reads: not what follows it."""
    while True:
        begun = time.perf_counter()
        block = next(blocks, None)
        meter.add({INGEST: time.perf_counter() - begun, key("source_bytes"): read.size_bytes})
        read.size_bytes = 0
        if block is None:
            return
        yield block


class MeteredMember:
    """A member of a model pool that also says how long it worked and waited, and how full its batches were."""

    def __init__(self, spec: PoolSpec, meter: Meter) -> None:
        self._member, self._meter, self._spec = PoolMember(spec), meter, spec
        self._free_since = time.perf_counter()
        take_fill()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Append the columns of the pool's stages."""
        begun = time.perf_counter()
        waited = begun - self._free_since
        done = self._member(table)
        self._free_since = time.perf_counter()
        fill, model = take_fill(), self._spec.model
        self._meter.add(
            {
                key("stage_seconds", stage=f"model/{model}"): self._free_since - begun,
                key("pool_wait_seconds", model=model): waited,
                key("model_audio_seconds", model=model): heard_seconds(table, self._spec),
                key("batch_used_units", model=model): fill.used,
                key("batch_padded_units", model=model): fill.padded,
                key("batch_room_units", model=model): fill.room,
            }
        )
        return done


def heard_seconds(table: pa.Table, spec: PoolSpec) -> float:
    """Return how many seconds of a wire table some stage of a pool hears."""
    rows = sorted({row for stage in spec.stages for row in rows_that_need(table, stage.id)})
    return segment_seconds(table.select(["start_seconds", "end_seconds"]).take(pa.array(rows, pa.int64())))


def spanned_seconds(table: pa.Table) -> float:
    """Return how many seconds of their recordings the segments of a table span, of all channels together."""
    spans = table.group_by("recording_id").aggregate([("start_seconds", "min"), ("end_seconds", "max")])
    return pc.sum(pc.subtract(spans["end_seconds_max"], spans["start_seconds_min"])).as_py() or 0.0


def segment_seconds(table: pa.Table) -> float:
    """Return how long the segments of a table are together."""
    return pc.sum(pc.subtract(table["end_seconds"], table["start_seconds"])).as_py() or 0.0
