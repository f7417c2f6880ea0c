"""The whole graph of a run, top to bottom: read, decode, reduce noise, model pools, spectrograms and clips, staging.

Ray Data fuses the CPU steps that stand next to each other, so an ingest without models is one task from bytes to
Parquet. Spectrograms and clips come after the pools: they are wanted by nobody but the sink, and would double what
travels.
"""

import logging
import time
from functools import partial
from typing import Final

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from pipelines.meter import Meter
from pipelines.metered import CLIPS, ENHANCE, SPECTROGRAMS, MeteredMember
from pipelines.planned_recordings import PlannedRecordings
from pipelines.recipe import Recipe
from pipelines.shares import Shares
from pipelines.sink import LakeSink
from pipelines.stages import Stage, enhance_settings
from pipelines.store import Store
from pipelines.tasks import Task
from pipelines.watch import NodeWatch
from pipelines.worker_settings import (
    bytes_per_second,
    clip_stages,
    gpu_batch_rows,
    ingest_settings,
    pool_spec,
    pools_of,
    spectrogram_stages,
)
from schemas.records import Plan
from workers.clips import add_clips
from workers.enhance import EnhanceSettings, add_enhanced
from workers.features import SpectrogramStage, add_spectrograms

NO_PROGRESS_SECONDS: Final = 3 * 3600
MODELS_LOAD_SECONDS: Final = 3600


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
