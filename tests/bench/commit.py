"""bench commit: what the run protocol costs, on an ingest without models and on a transcription.

The same graph over the same plan, three times a round: with the whole protocol (staging with hashes and receipts,
verdict, publish, seal); with every block's Parquet written straight to where readers look, as `write_parquet` does,
without hash, receipt, verdict or seal; and with the results thrown away. Reported is what the protocol adds to each.
"""

import argparse
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.cluster import connect
from pipelines.graph import run_graph
from pipelines.nodes import measure_cluster
from pipelines.parquet import footer, to_parquet
from pipelines.plan import write_plan
from pipelines.recipe import Recipe, parse_recipe
from pipelines.run import plan_delta, resume
from pipelines.runs import find_runs
from pipelines.shares import divide
from pipelines.sink import LakeSink
from pipelines.stages import stages_of
from pipelines.store import lake_store
from pipelines.tasks import pack_tasks
from pipelines.worker_settings import pool_kinds
from tests.bench.transcribe import chosen_clips
from tests.real_corpus import repeated
from workers.tabulate import receipt_rows, tabulate


class DirectSink(LakeSink):
    """Writes each block's tables at once where readers look; nothing proves that they are all there, or there once."""

    def stage(self, block: pa.Table) -> pa.Table:
        for table, rows in tabulate(block, self._keys, self._base, self._stages).items():
            path = Path(self._store.full(f"direct/{table}/{uuid.uuid4().hex}.parquet"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(to_parquet(rows.replace_schema_metadata(footer(self._plan, table))))
        return receipt_rows(block)

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> dict[str, float]:
        return {"rows": float(sum(block.num_rows for block in blocks))}


class NoSink(DirectSink):
    """Throws everything away."""

    def stage(self, block: pa.Table) -> pa.Table:
        return receipt_rows(block)


def time_protocol(recipe: Recipe) -> float:
    """Return seconds of a run from its plan on."""
    store, stages = lake_store(recipe.lake), stages_of(recipe)
    runs = find_runs(store, recipe.corpus)
    plan = write_plan(store, recipe, runs, plan_delta(recipe, store, runs, stages), stages)
    started = time.perf_counter()
    seal = resume(recipe, store, plan, stages)
    seconds = time.perf_counter() - started
    assert seal.failed == 0
    shutil.rmtree(store.full(""))
    return seconds


def time_graph(recipe: Recipe, sink: type[LakeSink]) -> float:
    """Return seconds of the graph alone, into another sink."""
    store, stages = lake_store(recipe.lake), stages_of(recipe)
    runs = find_runs(store, recipe.corpus)
    plan = write_plan(store, recipe, runs, plan_delta(recipe, store, runs, stages), stages)
    started = time.perf_counter()
    cluster = measure_cluster()
    shares = divide(cluster, pool_kinds(stages), recipe.pools.actors, recipe.pools.gpus_per_actor)
    run_graph(store, plan, recipe, stages, shares, pack_tasks(plan, {}, cluster.cpus), sink(store, plan, 1))
    seconds = time.perf_counter() - started
    shutil.rmtree(store.full(""))
    return seconds


def compare(title: str, recipe: Callable[[], Recipe], rounds: int) -> None:
    """Time the three ways in turn, and print what the protocol adds."""
    time_graph(recipe(), NoSink)  # workers started, libraries imported
    ways: dict[str, Callable[[], float]] = {
        "protocol": lambda: time_protocol(recipe()),
        "written directly": lambda: time_graph(recipe(), DirectSink),
        "thrown away": lambda: time_graph(recipe(), NoSink),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, measure in ways.items():
            times[name].append(measure())
        print("  " + ", ".join(f"{name} {taken[-1]:.1f} s" for name, taken in times.items()), flush=True)
    for rival in ("written directly", "thrown away"):
        added = statistics.median(a / b for a, b in zip(times["protocol"], times[rival], strict=True)) - 1
        print(f"bench commit, {title}: the protocol adds {100 * added:.1f} % to results {rival}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=12, help="of the 25-minute corpus, for the ingest")
    parser.add_argument("--clips", type=int, default=48, help="for the transcription")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="phonolake-bench-") as folder:
        many = repeated(options.copies, Path(folder) / "many")
        few, _ = chosen_clips(options.clips, Path(folder) / "few")
        connect()

        def content(source: Path) -> dict[str, Any]:
            lake = Path(folder) / uuid.uuid4().hex
            return {"corpus": "bench", "source": {"uri": str(source)}, "lake": {"uri": str(lake)}}

        def ingest() -> Recipe:
            return parse_recipe(
                {**content(many), "segments": {"by": "whole"}, "spectrograms": [{"kind": "log_mel"}]}, "bench"
            )

        def transcription() -> Recipe:
            return parse_recipe({**content(few), "transcripts": [{"model": "whisper-tiny.en"}]}, "bench")

        compare("ingest", ingest, options.rounds)
        compare("transcription", transcription, options.rounds)


if __name__ == "__main__":
    main()
