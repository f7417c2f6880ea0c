"""The whole graph of a run, top to bottom: read, decode, reduce noise, model pools, spectrograms and clips, staging.

Ray Data fuses the CPU steps that stand next to each other, so an ingest without models is one task from bytes to
Parquet. Spectrograms and clips come after the pools: they are wanted by nobody but the sink, and would double what
travels.
"""

import itertools
import logging
import math
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from pipelines.meter import Meter
from pipelines.metered import CLIPS, ENHANCE, SPECTROGRAMS, MeteredMember, ReadBytes, metered_ingest
from pipelines.recipe import Recipe
from pipelines.shares import Shares
from pipelines.sink import LakeSink
from pipelines.stages import Stage, enhance_settings, segment_settings
from pipelines.store import Store
from pipelines.watch import NodeWatch
from schemas.records import Plan
from schemas.wire import WIRE
from workers.actors import PoolSpec
from workers.clips import add_clips
from workers.decode_settings import DecodeLimits, DecodeSettings
from workers.enhance import EnhanceSettings, add_enhanced
from workers.features import SpectrogramStage, add_spectrograms
from workers.ingest import Ingester, IngestSettings
from workers.loading import SourceSettings
from workers.models.model import ModelStage
from workers.recording import Recording
from workers.source import Place, Source
from workers.spectrogram_settings import SpectrogramSettings

TASK_BYTES: Final = 112 << 20  # of source objects: an hour at 16 kHz and 16 bits; 3 s of work and more anyway
TASK_ROWS: Final = 1280
TASKS_PER_CORE: Final = 2  # at least, where the plan has the units for it; more would make small fragments
INGEST_BLOCK_BYTES: Final = 3600 * 32_000  # an hour at 16 kHz: its log-mel fragment is worth publishing as it is
MODEL_BLOCK_SECONDS: Final = 240.0  # half a minute of work for a transcriber on a CPU
INT16_BYTES: Final = 2
MADE_BLOCK_BYTES: Final = 160 << 20  # of all spectrograms and clips of a block: an hour of log-mel is 115 MB
FLOAT32_BYTES: Final = 4
GPU_BATCH_ROWS: Final = 256
GPU_BATCH_SECONDS: Final = 7200.0  # of segments as long as they may be, at 16 kHz: all lie in an actor's memory at once
NO_PROGRESS_SECONDS: Final = 3 * 3600
MODELS_LOAD_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Task:
    """What one read task does: consecutive rows of the plan, from `first`, but for those that are done already.

    Attributes:
        first: the first row.
        rows: how many rows each of its units has.
        done: the positions in each unit that are done.
    """

    first: int
    rows: tuple[int, ...]
    done: tuple[Collection[int], ...]


def run_graph(
    store: Store, plan: Plan, recipe: Recipe, stages: list[Stage], shares: Shares, tasks: list[Task], sink: LakeSink
) -> None:
    """Execute one attempt: everything in `tasks` ends as fragments and receipts in the sink's staging folder."""
    pools, settings = pools_of(stages), ingest_settings(recipe, stages)
    _configure(settings.block_seconds * bytes_per_second(recipe), shares)

    planned = PlannedRecordings(store, plan, tasks, settings, sink.meter)
    dataset = ray.data.read_datasource(planned, override_num_blocks=len(tasks), num_cpus=shares.task_cpus)
    enhancing = enhance_settings(recipe, stages)
    if enhancing:
        enhance = partial(enhanced, settings=enhancing, sample_rate=recipe.audio.sample_rate, meter=sink.meter)
        dataset = dataset.map_batches(
            enhance, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, num_cpus=shares.task_cpus
        )
    for pool, share in zip(pools, shares.pools, strict=True):
        dataset = dataset.map_batches(
            MeteredMember,
            fn_constructor_args=(pool_spec(pool, recipe, share.threads), sink.meter),
            compute=ActorPoolStrategy(size=share.actors, max_tasks_in_flight_per_actor=2),
            batch_size=gpu_batch_rows(recipe) if share.gpus else None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=share.cpus,
            num_gpus=share.gpus or None,
        )
    spectrograms, clips = spectrogram_stages(stages), clip_stages(stages)
    finish = partial(compute_and_stage, spectrograms=spectrograms, clips=clips, recipe=recipe, sink=sink)
    dataset = dataset.map_batches(
        finish, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, num_cpus=shares.task_cpus
    )
    dataset.write_datasink(sink, ray_remote_args={"num_cpus": shares.task_cpus})


def gpu_batch_rows(recipe: Recipe) -> int:
    """Return how many rows of the wire a GPU's actor gets at once; Ray Data wants a number with GPUs."""
    seconds = recipe.segments.max_seconds * recipe.audio.sample_rate / 16_000
    return max(1, min(GPU_BATCH_ROWS, int(GPU_BATCH_SECONDS / seconds)))


def _configure(block_bytes: float, shares: Shares) -> None:
    """Set what Ray Data does beyond the graph; a dataset captures it when it is made."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors reach us as errors; it prints them too
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = int(block_bytes * 0.8)  # our blocks go on as they are
    context.execution_options.preserve_order = False
    context.enable_fallback_to_arrow_object_ext_type = False  # a type we did not declare is a bug, not a pickle
    context.max_errored_blocks = 0  # errors are rows; a lost block would be lost data
    context.actor_init_retry_on_errors = True
    context.max_consecutive_actor_init_deaths = 3
    context.execution_no_progress_timeout_s = NO_PROGRESS_SECONDS
    context.print_on_execution_start = False
    context.wait_for_min_actors_s = MODELS_LOAD_SECONDS  # a model that cannot load ends the run before audio is read
    context.custom_execution_callback_classes = [partial(NodeWatch, shares)]  # of which Ray Data makes one
    context.memory_usage_poll_interval_s = None  # reading /proc/self/smaps every second costs a core a tenth


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


def compute_and_stage(
    table: pa.Table, spectrograms: list[SpectrogramStage], clips: list[str], recipe: Recipe, sink: LakeSink
) -> pa.Table:
    """Compute the spectrograms and clips of a wire table and stage everything in it; return receipt rows."""
    begun = time.perf_counter()
    table = add_spectrograms(table, spectrograms, recipe.audio.sample_rate)
    if spectrograms:
        sink.meter.add({SPECTROGRAMS: time.perf_counter() - begun})
    begun = time.perf_counter()
    table = add_clips(table, clips, recipe.audio.sample_rate)
    if clips:
        sink.meter.add({CLIPS: time.perf_counter() - begun})
    return sink.stage(table)


def enhanced(table: pa.Table, settings: EnhanceSettings, sample_rate: int, meter: Meter) -> pa.Table:
    """Reduce the noise of a wire table's segments."""
    begun = time.perf_counter()
    table = add_enhanced(table, settings, sample_rate)
    meter.add({ENHANCE: time.perf_counter() - begun})
    return table


def pack_tasks(plan: Plan, done: dict[int, Collection[int]], cores: float) -> list[Task]:
    """Gather consecutive units into tasks of a few seconds of work each; `done` has the finished rows of each unit.

    There are as many tasks as give each core the same number, of about the same work, so that none waits at the end.
    """
    starts = list(itertools.accumulate(plan.unit_rows, initial=0))
    left = [unit for unit, rows in enumerate(plan.unit_rows) if len(done.get(unit, ())) < rows]
    work = [max(plan.unit_rows[unit] / TASK_ROWS, plan.unit_bytes[unit] / TASK_BYTES) for unit in left]
    whole = max(1, round(cores))
    total = sum(work)
    count = whole * max(TASKS_PER_CORE, math.ceil(total / whole))
    groups: dict[tuple[int, int], list[int]] = {}  # by the share of all work that they lie in, and what they follow
    before = gaps = 0
    for unit, end, own in zip(left, itertools.accumulate(work), work, strict=True):
        gaps, before = gaps + (unit != before + 1), unit
        share = int((end - own / 2) / total * count)
        groups.setdefault((share, gaps), []).append(unit)
    return [
        Task(
            starts[group[0]],
            tuple(plan.unit_rows[unit] for unit in group),
            tuple(done.get(unit, frozenset()) for unit in group),
        )
        for group in groups.values()
    ]


def ingest_settings(recipe: Recipe, stages: list[Stage]) -> IngestSettings:
    """Return what ingesting needs of a recipe."""
    return IngestSettings(
        decode=decode_settings(recipe),
        segments=segment_settings(recipe.segments),
        source=source_settings(recipe),
        block_seconds=block_seconds(recipe, stages),
        on_partial=recipe.audio.on_partial,
        reference_column=next((one.text_column for one in recipe.transcripts if one.align_with), None),
    )


def bytes_per_second(recipe: Recipe) -> int:
    """Return how many bytes of samples a second of audio has on the wire: once, or twice where it is enhanced too."""
    return INT16_BYTES * recipe.audio.sample_rate * (2 if recipe.enhance else 1)


def block_seconds(recipe: Recipe, stages: list[Stage]) -> float:
    """Return how much audio a wire table holds: what a pool does in half a minute, or what gives good fragments.

    Fewer seconds where the spectrograms are many or fine, or clips come to them: a block and what is made of it are in
    memory together.
    """
    if pools_of(stages):
        return MODEL_BLOCK_SECONDS
    values = sum(one.settings.values_per_second(recipe.audio.sample_rate) for one in spectrogram_stages(stages))
    clips = INT16_BYTES * recipe.audio.sample_rate if recipe.clips else 0  # noise does not get smaller as FLAC
    longest = INGEST_BLOCK_BYTES / bytes_per_second(recipe)
    return min(longest, MADE_BLOCK_BYTES / max(values * FLOAT32_BYTES + clips, 1.0))


def decode_settings(recipe: Recipe) -> DecodeSettings:
    """Return how a recipe's recordings are decoded."""
    audio, limits = recipe.audio, recipe.limits
    allowed = DecodeLimits(limits.max_seconds, limits.max_channels, limits.max_rate, limits.max_decoded_bytes)
    return DecodeSettings(audio.sample_rate, allowed, audio.channels, audio.track)


def source_settings(recipe: Recipe) -> SourceSettings:
    """Return how a recipe's recordings are read."""
    options = tuple(sorted(recipe.source.storage.options().items()))
    return SourceSettings(options, recipe.limits.max_bytes, recipe.source.audio_column)


def spectrogram_stages(stages: list[Stage]) -> list[SpectrogramStage]:
    """Return the spectrograms among the stages."""
    return [
        SpectrogramStage(stage.id, SpectrogramSettings(**stage.settings), stage.signal)
        for stage in stages
        if stage.table == "spectrograms"
    ]


def clip_stages(stages: list[Stage]) -> list[str]:
    """Return the ids of the stages that keep the sound itself: one, or none."""
    return [stage.id for stage in stages if stage.table == "clips"]


def pools_of(stages: list[Stage]) -> list[list[Stage]]:
    """Return the stages by model: one pool serves all tables that a model fills."""
    pools: dict[str, list[Stage]] = {}
    for stage in stages:
        if stage.checkpoint is not None:
            pools.setdefault(stage.checkpoint.name, []).append(stage)
    return list(pools.values())


def pool_kinds(stages: list[Stage]) -> list[str]:
    """Return the kind of model of each pool, in the order of pools_of."""
    return [pool[0].checkpoint.kind for pool in pools_of(stages) if pool[0].checkpoint is not None]


def pool_spec(pool: list[Stage], recipe: Recipe, threads: int) -> PoolSpec:
    """Return what the members of a pool are made from."""
    checkpoint = pool[0].checkpoint
    assert checkpoint is not None
    return PoolSpec(
        checkpoint.name,
        checkpoint.kind,
        checkpoint.digest,
        tuple(ModelStage(stage.id, stage.table, stage.settings, stage.signal) for stage in pool),
        threads,
        recipe.pools.batch_size,
        recipe.pools.batch_seconds,
        recipe.audio.sample_rate,
        recipe.pools.dtype,
    )
