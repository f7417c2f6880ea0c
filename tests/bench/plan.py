"""bench plan: the next night over a corpus of a million recordings, on a lake that holds them all.

A synthetic ledger of twenty sealed runs and a listing in which one object in a hundred is new and one in two hundred
has changed; then `find_delta` and `write_plan` as `phonolake run` calls them. Reports seconds and peak resident
memory of the whole process, the making of listing and ledger apart. The rival is what an engineer writes first: the
same anti-join with a Python set and a loop.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ledger import load_ledger
from pipelines.parquet import to_parquet
from pipelines.plan import find_delta, write_plan
from pipelines.recipe import parse_recipe
from pipelines.runs import Runs
from pipelines.sources import LISTING
from pipelines.stages import Stage
from pipelines.store import Store
from schemas import layout, records
from schemas.ids import recording_id

CORPUS, RUNS, CHUNK = "bench", 20, 50_000
STAGES = [Stage("segments", "speech", {}, None, "f" * 16), Stage("transcripts", "whisper", {}, None, "e" * 16)]


def uri(number: int) -> str:
    """Return the address of an object as long as real ones are."""
    return f"s3://corpora/call-centre/2026/{number % 366:03d}/agent-{number % 977:04d}/{number:010d}.wav"


def etag(number: int, version: int) -> str:
    """Return an etag as S3 gives them: 32 hexadecimal digits."""
    return f"{number * 2654435761 % (1 << 64):016x}{version:016x}"


def make(folder: Path, recordings: int) -> None:
    """Write the lake's ledgers and the listing of the next night."""
    store = Store(str(folder / "lake"))
    keys = [stage.key for stage in STAGES]
    for run in range(RUNS):
        numbers = range(run * recordings // RUNS, (run + 1) * recordings // RUNS)
        columns = [
            pa.array([recording_id(CORPUS, uri(n), etag(n, 0), 64_000 + n % 9999, 1) for n in numbers]),
            pa.array([uri(n) for n in numbers]),
            pa.array([64_000 + n % 9999 for n in numbers], pa.int64()),
            pa.array(["ok"] * len(numbers)),
            pa.array([keys] * len(numbers)),
        ]
        ledger = pa.Table.from_arrays(columns, schema=records.LEDGER).sort_by("recording_id")
        store.put(layout.ledger_file(CORPUS, layout.run_name(run + 1)), to_parquet(ledger))
    with pq.ParquetWriter(folder / "listing.parquet", LISTING) as writer:
        for start in range(0, recordings + recordings // 100, CHUNK):
            numbers = range(start, min(start + CHUNK, recordings + recordings // 100))
            rows = {
                "uri": [uri(n) for n in numbers],
                "etag": [etag(n, int(n % 200 == 0)) for n in numbers],
                "size_bytes": [64_000 + n % 9999 for n in numbers],
                "modified_ns": [1] * len(numbers),
            }
            filled = [pa.array(rows.get(field.name, [None] * len(numbers)), field.type) for field in LISTING]
            writer.write_table(pa.Table.from_arrays(filled, schema=LISTING))


def ours(folder: Path) -> int:
    """Plan as `phonolake run` does; return how many recordings."""
    store = Store(str(folder / "lake"))
    names = [layout.run_name(run + 1) for run in range(RUNS)]
    runs = Runs(CORPUS, names, frozenset(names))
    listing = pq.read_table(folder / "listing.parquet", partitioning=None)
    content = {"corpus": CORPUS, "source": {"uri": "/audio/"}, "lake": {"uri": str(folder / "lake")}}
    delta = find_delta(store, runs, CORPUS, listing, STAGES)
    return write_plan(store, parse_recipe(content, "bench"), runs, delta, STAGES).recordings


def loop(folder: Path) -> int:
    """The rival: a set of what is done, and a loop over what is there."""
    store = Store(str(folder / "lake"))
    names = [layout.run_name(run + 1) for run in range(RUNS)]
    done = {row["recording_id"] for row in load_ledger(store, Runs(CORPUS, names, frozenset(names))).to_pylist()}
    todo = []
    for row in pq.read_table(folder / "listing.parquet", partitioning=None).to_pylist():
        identity = recording_id(CORPUS, row["uri"], row["etag"], row["size_bytes"], row["modified_ns"])
        if identity not in done:
            todo.append({**row, "recording_id": identity})
    todo.sort(key=lambda row: str(row["recording_id"]))
    return len(todo)


def measured(way: str, folder: Path) -> None:
    """Run one way in this process and print its figures."""
    started = time.perf_counter()
    planned = {"ours": ours, "loop": loop}[way](folder)
    seconds = time.perf_counter() - started
    print(f"{planned} {seconds:.1f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=1_000_000)
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measured(options.measure[0], Path(options.measure[1]))
        return
    with tempfile.TemporaryDirectory(prefix="phonolake-bench-") as folder:
        make(Path(folder), options.recordings)
        for way in ("loop", "ours"):
            command = [sys.executable, "-m", "tests.bench.plan", "--measure", way, folder]
            planned, seconds, gigabytes = subprocess.check_output(command, text=True).split()
            print(
                f"bench plan, {way}: {planned} of {options.recordings:,} recordings planned in {seconds} s, "
                f"{gigabytes} GB resident at most",
                flush=True,
            )


if __name__ == "__main__":
    main()
