"""bench search: the ten nearest of many vectors in a lake's Parquet files, cold processes, warm disk cache.

Ours is pipelines.search.similar: one SQL statement over the view of current rows, DuckDB's list_cosine_similarity and
its top-N. The rival streams the same current rows out of DuckDB as Arrow batches to one numpy product each, and keeps
the best. Both find the same segments, or the bench fails. Seconds of the wall and of the processor are printed: the
second say what it costs where other work shares the machine.
"""

import argparse
import datetime
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.lake import open_lake
from pipelines.parquet import write_parquet
from pipelines.search import similar
from pipelines.store import Store
from schemas import layout
from schemas.tables import TABLES, leading_key

RUN, CORPUS, DAY, MODEL = "00001", "prompts", "2024-05-01", "clap"
SEGMENTS = 4  # of each recording
ROWS_A_FILE = 125_000
BATCH_ROWS = 4_096
BEST = 10


def write_lake(root: Path, rows: int, dim: int) -> str:
    """Write a lake of random unit vectors; return the id of one segment."""
    recordings = sorted(hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(rows // SEGMENTS))
    _write(root, "recordings", 0, {"recording_id": recordings, "uri": recordings}, size_bytes=1, status="ok")
    owners = [one for one in recordings for _ in range(SEGMENTS)]
    indices = list(range(SEGMENTS)) * len(recordings)
    ids = [f"{owner}-{index:05d}" for owner, index in zip(owners, indices, strict=True)]
    starts = [10.0 * index for index in indices]
    ends = [start + 10 for start in starts]
    told = {"recording_id": owners, "segment_id": ids}
    _write(root, "segments", 0, {**told, "segment_index": indices, "start_seconds": starts, "end_seconds": ends})
    facts = {"model": MODEL, "revision": "1", "layer": "audio_projection", "pooling": "mean", "dim": dim}
    rng = np.random.default_rng(0)
    for number, first in enumerate(range(0, len(ids), ROWS_A_FILE)):
        part = slice(first, first + ROWS_A_FILE)
        vectors = rng.standard_normal((len(ids[part]), dim), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        offsets = pa.array(np.arange(0, vectors.size + 1, dim, dtype=np.int32))
        lists = pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)))
        columns = {"recording_id": owners[part], "segment_id": ids[part], "vector": lists}
        _write(root, "embeddings", number, columns, **facts)
    return ids[len(ids) // 2]


def _write(root: Path, table: str, number: int, columns: dict[str, object], **alike: object) -> None:
    count = len(columns["recording_id"])
    keys = {"run_id": RUN, "corpus_id": CORPUS, "ingested_at": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC)}
    same = {name: pa.repeat(value, count) for name, value in {**keys, **alike}.items()}
    none = {field.name: pa.nulls(count, field.type) for field in TABLES[table]}
    schema = TABLES[table]
    found = {**none, **same, **columns}
    arrays = [pa.array(found[name]) if isinstance(found[name], list) else found[name] for name in schema.names]
    content = pa.table([array.cast(kind) for array, kind in zip(arrays, schema.types, strict=True)], schema=schema)
    path = root / layout.data_file(table, CORPUS, DAY, RUN, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(str(path), schema, [content], leading_key(table))


def ours(store: Store, segment_id: str) -> list[str]:
    """Ask as the command does."""
    return [match.segment_id for match in similar(store, segment_id, MODEL, BEST).matches]


def rival(store: Store, segment_id: str) -> list[str]:
    """Stream current rows to numpy."""
    connection = open_lake(store)
    asked = f"SELECT vector FROM current_embeddings WHERE model = '{MODEL}' AND segment_id = '{segment_id}'"
    query = np.array(connection.sql(asked).fetchall()[0][0], np.float32)
    rows = connection.sql(f"SELECT segment_id, vector FROM current_embeddings WHERE model = '{MODEL}'")
    ids, scores = np.array([], object), np.array([], np.float32)
    for batch in rows.to_arrow_reader(BATCH_ROWS):
        vectors = batch["vector"].flatten().to_numpy().reshape(batch.num_rows, -1)
        cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
        near = np.argsort(-cosines)[: BEST + 1]
        ids = np.concatenate([ids, batch["segment_id"].take(pa.array(near)).to_numpy(zero_copy_only=False)])
        scores = np.concatenate([scores, cosines[near]])
        best = np.argsort(-scores)[: BEST + 1]
        ids, scores = ids[best], scores[best]
    return [one for one in ids.tolist() if one != segment_id][:BEST]


WAYS = {"phonolake": ours, "numpy": rival}


def measure(way: str, lake: str, segment_id: str) -> None:
    """Ask once, and print what came and what it cost, as JSON."""
    before, started = time.process_time(), time.perf_counter()
    found = WAYS[way](Store(lake), segment_id)
    taken, burnt = time.perf_counter() - started, time.process_time() - before
    (peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    print(json.dumps({"found": found, "wall": taken, "cpu": burnt, "megabytes": int(peak) >> 10}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(*options.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        segment_id = write_lake(Path(folder), options.rows, options.dim)
        taken: dict[str, list[dict[str, object]]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way, runs in taken.items():
                command = [sys.executable, "-m", "tests.bench.search", "--child", way, folder, segment_id]
                runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    first, *others = (run["found"] for runs in taken.values() for run in runs)
    if any(other != first for other in others):
        raise SystemExit("bench search: the two ways do not find the same segments")
    for way, runs in taken.items():
        wall, cpu, peak = (min(run[name] for run in runs) for name in ("wall", "cpu", "megabytes"))
        print(
            f"bench search: {way:<9} {wall:6.2f} s, {cpu:6.2f} s of the processor, {peak:,} MB at the most, for "
            f"{options.rows:,} vectors of {options.dim}"
        )


if __name__ == "__main__":
    main()
