"""The recordings of a plan, as the read tasks of Ray Data fetch, decode and cut them."""

import itertools
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from pipelines.meter import Meter
from pipelines.metered import ReadBytes, metered_ingest
from pipelines.store import Store
from pipelines.tasks import Task
from schemas.records import Plan
from schemas.wire import WIRE
from workers.ingest import Ingester, IngestSettings
from workers.recording import Recording
from workers.source import Place, Source


class PlannedRecordings(Datasource):
    """The recordings of a plan as Ray Data reads them: a read task per Task, each fetching only its units' rows."""

    def __init__(self, store: Store, plan: Plan, tasks: list[Task], settings: IngestSettings, meter: Meter) -> None:
        super().__init__()
        self._store, self._plan, self._tasks, self._settings, self._meter = store, plan, tasks, settings, meter

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: what compressed audio decodes to is not known before."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Return one read task per Task; how many there are was decided when they were packed."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        read = partial(
            read_recordings, self._store, self._plan.recordings_file, settings=self._settings, meter=self._meter
        )
        return [ReadTask(partial(read, task), metadata, schema=WIRE) for task in self._tasks]


def read_recordings(
    store: Store, recordings_file: str, task: Task, settings: IngestSettings, meter: Meter
) -> Iterator[pa.Table]:
    """Fetch, decode and cut the recordings of one task; yield wire tables."""
    read = ReadBytes()
    recordings = read.counted(planned_recordings(store, recordings_file, task))
    yield from metered_ingest(_ingester(settings).ingest(recordings), read, meter)


@lru_cache(maxsize=1)
def _ingester(settings: IngestSettings) -> Ingester:
    """Keep the ingester, and so its decoder child, for the next task of this worker process."""
    return Ingester(settings)


def planned_recordings(store: Store, recordings_file: str, task: Task) -> Iterator[Recording]:
    """Yield the recordings of a task that are not done yet."""
    rows = store.read_parts(recordings_file, lambda file: _rows(file, task.first, sum(task.rows)))
    start = 0
    for count, done in zip(task.rows, task.done, strict=True):
        for position, row in enumerate(rows[start : start + count]):
            if position not in done:
                yield recording_of(row)
        start += count


def _rows(file: Any, first: int, count: int) -> list[dict[str, Any]]:
    """Return `count` consecutive rows of a Parquet file, reading only the row groups that hold any."""
    opened = pq.ParquetFile(file)
    sizes = [opened.metadata.row_group(number).num_rows for number in range(opened.metadata.num_row_groups)]
    starts = list(itertools.accumulate(sizes, initial=0))
    groups = [number for number, size in enumerate(sizes) if starts[number] + size > first]
    groups = [number for number in groups if starts[number] < first + count]
    rows: list[dict[str, Any]] = opened.read_row_groups(groups).slice(first - starts[groups[0]], count).to_pylist()
    return rows


def recording_of(row: dict[str, Any]) -> Recording:
    """Return a row of a plan as a recording."""
    place, problem = row.get("place"), row.get("problem")  # plans of the first release have neither, nor `only`
    source = Source(
        row["uri"],
        row["etag"],
        row["size_bytes"],
        row["modified_ns"],
        Place(**place) if place and place["shard"] else None,
    )
    told = (problem["code"], problem["message"]) if problem and problem["code"] else None
    return Recording(row["recording_id"], source, row["stages"], row["metadata"] or [], row.get("only"), told)
