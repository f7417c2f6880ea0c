"""bench driver: what one process has to hold when a run has so many recordings, from the listing to the seal.

No audio and no Ray: the listing is made up a page at a time, and the receipts are written from the plan as the tasks of
a run would write them. Every step is the function that `phonolake run` calls, in a process of its own, and is reported
with its seconds and its peak of resident memory (importing everything is some 0.25 GB of it). `next night` plans again,
over the ledger of the run and a listing in which one object in a hundred is new. A step that passes `--gigabytes` is
ended, and so is the measurement: then that is the limit.

There is no rival: this measures what the design costs, and where it ends.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.attempt import survey
from pipelines.listing import LISTING, batches
from pipelines.parquet import to_parquet
from pipelines.plan import find_delta, write_plan
from pipelines.recipe import parse_recipe
from pipelines.runs import find_runs, load_plan, read_table
from pipelines.seal import seal
from pipelines.sink import RECEIPT_HEADER
from pipelines.stages import Stage
from pipelines.store import Store
from pipelines.verdict import decide, load_verdict
from schemas import layout, wire
from schemas.records import Fragment, Plan, PublishedFile, Receipt, to_json
from tests.bench.plan import CORPUS, STAGES, etag, uri

TABLES = ("segments", "embeddings", "transcripts", "tags", "recordings")
MODELS = [Stage(table, "model", {}, None, table[0] * 16) for table in ("embeddings", "tags")]
LOOK_SECONDS = 0.05
FRAGMENT_BYTES = 4 << 20  # smaller than a file should be, so that each has to be gathered with others


def listed(count: int) -> pa.Table:
    """A listing of so many objects, made as one of a store is: a page at a time, columns at once."""
    rows = ((uri(n), etag(n, 0), 64_000 + n % 9999, 1) for n in range(count))
    return pa.Table.from_batches(batches(rows), LISTING)


def plan_step(store: Store, options: argparse.Namespace) -> str:
    """List, subtract the ledger, and write the plan: the first night, or one with a hundredth more."""
    runs = find_runs(store, CORPUS)
    listing = listed(options.recordings + (options.recordings // 100 if runs.sealed else 0))
    content = {"corpus": CORPUS, "source": {"uri": "/audio/"}, "lake": {"uri": store.uri}}
    delta = find_delta(store, runs, CORPUS, listing, [*STAGES, *MODELS])
    del listing
    plan = write_plan(store, parse_recipe(content, "bench"), runs, delta, [*STAGES, *MODELS])
    return f"{plan.recordings:,} recordings, {len(plan.unit_rows):,} units"


def receipts_step(store: Store, options: argparse.Namespace) -> str:
    """Write receipts for the whole plan, as all tasks together would: not the driver's work."""
    plan = load_plan(store, CORPUS, "00001")
    ids = read_table(store, plan.recordings_file, ["recording_id"])["recording_id"].combine_chunks()
    count = 0
    for start in range(0, len(ids), options.per_receipt):
        part = ids.slice(start, options.per_receipt)
        _write_receipt(store, plan, part, options.segments)
        count += 1
    return f"{count:,} receipts of {len(TABLES)} fragments"


def _write_receipt(store: Store, plan: Plan, ids: pa.Array, segments: int) -> None:
    rows, count = len(ids), len(ids) * segments
    indices = pa.array(list(range(segments)) * rows, pa.int32())
    segment_ids = ids.take(pa.array([row for row in range(rows) for _ in range(segments)]))
    columns = {
        "recording_id": pa.concat_arrays([segment_ids, ids]),
        "segment_index": pa.concat_arrays([indices, pa.nulls(rows, pa.int32())]),
        "n_segments": pa.concat_arrays([pa.nulls(count, pa.int32()), pa.repeat(pa.scalar(segments, pa.int32()), rows)]),
        "outcome": pa.concat_arrays([pa.nulls(count, pa.string()), pa.repeat("ok", rows)]),
        "seconds": pa.concat_arrays([pa.nulls(count, pa.float64()), pa.repeat(4.0, rows)]),
        "transient": pa.nulls(count + rows, pa.bool_()),
        "failed_stages": pa.repeat(pa.scalar(0, pa.int32()), count + rows),
    }
    bounds = pc.min_max(ids).as_py()
    fragments = [
        Fragment(
            table,
            layout.fragment_file(CORPUS, plan.run, 1, table, uuid.uuid4().hex),
            rows if table == "recordings" else count,
            FRAGMENT_BYTES,
            f"{0:064x}",
            bounds["min"],
            bounds["max"],
        )
        for table in TABLES
    ]
    table = pa.Table.from_arrays([columns[name] for name in wire.RECEIPT.names], schema=wire.RECEIPT)
    table = table.replace_schema_metadata({RECEIPT_HEADER: to_json(Receipt(1, fragments))})
    name = layout.receipt_file(CORPUS, plan.run, 1, uuid.uuid4().hex)
    target = Path(store.full(name))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(to_parquet(table))


def survey_step(store: Store, _options: argparse.Namespace) -> str:
    """Find out how far the run is, as every attempt does before and after it."""
    state = survey(store, load_plan(store, CORPUS, "00001"), try_again=False)
    return f"{state.missing:,} recordings missing"


def verdict_step(store: Store, _options: argparse.Namespace) -> str:
    """Find out that nothing is missing, and decide."""
    plan = load_plan(store, CORPUS, "00001")
    state = survey(store, plan, try_again=False)
    verdict = decide(store, plan, state.evidence, state.winners)
    size = Path(store.full(layout.verdict_file(CORPUS, plan.run))).stat().st_size
    return f"{len(verdict.files):,} files to publish, verdict.json {size / 1e6:.1f} MB"


def seal_step(store: Store, _options: argparse.Namespace) -> str:
    """Write ledger and seal, as if all files of the verdict were published; staging goes."""
    plan = load_plan(store, CORPUS, "00001")
    verdict = load_verdict(store, plan)
    files = [
        PublishedFile(file.table, file.path, sum(one.rows for one in file.sources), FRAGMENT_BYTES, f"{0:064x}")
        for file in verdict.files
    ]
    record = seal(store, plan, verdict, files)
    return f"{record.ok:,} recordings done"


STEPS: dict[str, Callable[[Store, argparse.Namespace], str]] = {
    "plan": plan_step,
    "receipts": receipts_step,
    "survey": survey_step,
    "verdict": verdict_step,
    "seal": seal_step,
    "next night": plan_step,
}


def measured(step: str, options: argparse.Namespace, folder: str) -> bool:
    """Run a step in a process of its own and print its figures; whether it stayed within its memory."""
    command = [sys.executable, "-m", "tests.bench.driver", "--step", step, "--folder", folder]
    for name in ("recordings", "segments", "per_receipt"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    started, most = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for resident in _resident(process):
            most = max(most, resident)
            if resident > options.gigabytes * 1e9:
                process.kill()
                print(f"bench driver, {step}: ended at {resident / 1e9:.1f} GB")
                return False
        said = process.stdout.read().strip() if process.stdout else ""
    print(
        f"bench driver, {step}: {time.perf_counter() - started:.1f} s, {most / 1e9:.2f} GB resident; {said}", flush=True
    )
    return process.returncode == 0


def _resident(process: subprocess.Popen[str]) -> Iterator[int]:
    """Yield a process's resident bytes until it ends."""
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            yield watched.memory_info().rss
        except psutil.NoSuchProcess:
            return
        time.sleep(LOOK_SECONDS)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=1_000_000)
    parser.add_argument("--segments", type=int, default=2, help="of each recording")
    parser.add_argument("--per-receipt", type=int, default=1280, help="recordings")
    parser.add_argument("--gigabytes", type=float, default=12.0, help="at which a step is ended")
    parser.add_argument("--keep", metavar="FOLDER", help="where to work, and to leave what was written")
    parser.add_argument("--only", nargs="*", choices=STEPS, help="some steps, in a folder that holds those before them")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(STEPS[options.step](Store(options.folder), options))
        return
    with tempfile.TemporaryDirectory(prefix="phonolake-bench-") as folder:
        print(f"bench driver: {options.recordings:,} recordings of {options.segments} segments", flush=True)
        for step in options.only or STEPS:
            if not measured(step, options, options.keep or folder):
                sys.exit(1)


if __name__ == "__main__":
    main()
