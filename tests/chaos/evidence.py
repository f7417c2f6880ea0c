"""What a lake holds at a moment, read from its files alone, and what it must hold in the end."""

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.store import Store

KEYS = {
    "recordings": ["recording_id"],
    "segments": ["segment_id"],
    "spectrograms": ["segment_id", "kind"],
    "embeddings": ["segment_id", "model"],
    "transcripts": ["segment_id", "model"],
    "tags": ["segment_id", "model", "label"],
    "failures": ["recording_id", "segment_id", "stage"],
}
RUN = "00001"
ROUNDING = 1e-5


@dataclass(frozen=True, slots=True)
class Moment:
    """A lake between two commands.

    Attributes:
        attempts: how many were begun.
        done: recordings that the receipts of one attempt prove done.
        records: sha256 of the files under runs/.
        published: sha256 of the files under data/.
        sealed: whether the run is.
    """

    attempts: int
    done: frozenset[str]
    records: dict[str, str]
    published: dict[str, str]
    sealed: bool


def moment(lake: Store) -> Moment:
    """Read how far a lake is, and check what must hold at every moment."""
    objects = [path for path in lake.list("") if not path.startswith("staging")]
    attempts = sum("/attempts/" in path for path in objects)
    done = frozenset().union(*receipted(lake).values())
    records, published = (
        {path: hashlib.sha256(lake.read(path)).hexdigest() for path in objects if path.startswith(folder)}
        for folder in ("runs/", "data/")
    )
    for table, rows in tables(lake).items():
        _check_once(table, rows)
    return Moment(attempts, done, records, published, any(path.endswith("seal.json") for path in objects))


def receipted(lake: Store) -> dict[int, frozenset[str]]:
    """Return what each attempt's receipts prove done: recordings with a closing row and all its segments."""
    closings: dict[int, dict[str, int]] = {}
    segments: dict[int, dict[str, set[int]]] = {}
    for attempt, rows in _receipts(lake):
        for row in rows.select(["recording_id", "segment_index", "n_segments"]).to_pylist():
            if row["segment_index"] is None:
                closings.setdefault(attempt, {})[row["recording_id"]] = row["n_segments"]
            else:
                found = segments.setdefault(attempt, {}).setdefault(row["recording_id"], set())
                found.add(row["segment_index"])
    return {
        attempt: frozenset(
            one for one, count in closed.items() if set(range(count)) <= segments.get(attempt, {}).get(one, set())
        )
        for attempt, closed in closings.items()
    }


def computed(lake: Store) -> dict[int, frozenset[str]]:
    """Return the recordings that each attempt's receipts name at all."""
    found: dict[int, set[str]] = {}
    for attempt, rows in _receipts(lake):
        found.setdefault(attempt, set()).update(rows["recording_id"].to_pylist())
    return {attempt: frozenset(names) for attempt, names in found.items()}


def _receipts(lake: Store) -> Iterator[tuple[int, pa.Table]]:
    """Yield attempt and rows of every receipt: staging/<corpus>/<run>/<attempt>/receipts/<uuid>.parquet."""
    for path in lake.list("staging"):
        if "/receipts/" in path:
            yield int(path.split("/")[3]), pq.read_table(pa.BufferReader(lake.read(path)))


def tables(lake: Store) -> dict[str, pa.Table]:
    """Return the rows of every table as its files hold them, sorted by their keys; all but `ingested_at`."""
    parts: dict[str, list[pa.Table]] = {}
    for path in lake.list("data"):
        rows = pq.read_table(pa.BufferReader(lake.read(path))).drop_columns(["ingested_at"])
        parts.setdefault(path.split("/")[1], []).append(rows.replace_schema_metadata(None))
    joined = {table: pa.concat_tables(found) for table, found in parts.items()}
    return {table: rows.sort_by([(key, "ascending") for key in KEYS[table]]) for table, rows in joined.items()}


def _check_once(table: str, rows: pa.Table) -> None:
    keys = rows.select(KEYS[table]).group_by(KEYS[table]).aggregate([([], "count_all")])
    twice = keys.filter(pc.greater(keys["count_all"], 1))
    assert twice.num_rows == 0, f"{table} holds rows twice: {twice.slice(0, 5).to_pylist()}"


def check_progress(before: Moment, after: Moment) -> None:
    """What is published or on record stays as it is."""
    for was, now in ((before.records, after.records), (before.published, after.published)):
        changed = [path for path, sha256 in was.items() if now.get(path) != sha256]
        assert not changed, f"these files changed or went: {changed}"


def check_not_again(before: Moment, lake: Store) -> None:
    """No attempt that began after a moment computed what was done at it."""
    for attempt, names in computed(lake).items():
        again = names & before.done
        assert attempt <= before.attempts or not again, f"attempt {attempt} computed {len(again)} recordings again"


def check_same(lake: Store, undisturbed: Store, without: Collection[str] = ()) -> None:
    """Every table has the rows that an undisturbed lake has, once; the seal lists the files that are there.

    Tables `without` which the lake was made are left out.
    """
    found = tables(lake)
    expected = {table: rows for table, rows in tables(undisturbed).items() if table not in without}
    counts = {table: rows.num_rows for table, rows in found.items()}
    assert counts == {table: rows.num_rows for table, rows in expected.items()}
    for table, rows in found.items():
        _check_once(table, rows)
        check_rows(table, rows, expected[table])
    check_sealed(lake)
    assert _booked(lake, without).equals(_booked(undisturbed, without))
    names = ("recordings", "ok", "partial", "failed", "returned", "audio_seconds", "run")
    ours, theirs = seal(lake), seal(undisturbed)
    assert {name: ours[name] for name in names} == {name: theirs[name] for name in names}


def _booked(lake: Store, without: Collection[str]) -> pa.Table:
    """Return the ledger of the only run, with the stages that both lakes have."""
    rows = pq.read_table(pa.BufferReader(lake.read(seal(lake)["ledger_file"])))
    stages = [
        [stage for stage in of_one if stage.split("/")[0] not in without] for of_one in rows["stages"].to_pylist()
    ]
    return rows.set_column(rows.column_names.index("stages"), "stages", pa.array(stages, pa.list_(pa.string())))


def check_rows(table: str, rows: pa.Table, expected: pa.Table) -> None:
    """The rows are the same: numbers of models to the rounding of another batch's order of sums, all else exactly."""
    for name in rows.column_names:
        ours, theirs = rows[name].combine_chunks(), expected[name].combine_chunks()
        if not (ours.equals(theirs) or _nearly(ours, theirs)):
            pairs = zip(ours.to_pylist(), theirs.to_pylist(), strict=True)
            different = [pair for pair in pairs if pair[0] != pair[1]]
            raise AssertionError(f"{table}.{name} differs in {len(different)} rows: {str(different[0])[:300]}")


def _nearly(ours: pa.Array, theirs: pa.Array) -> bool:
    """Whether two columns of 32-bit floats, or lists of them, are the same to rounding."""
    if pa.types.is_list(ours.type):
        if not pc.list_value_length(ours).equals(pc.list_value_length(theirs)):
            return False
        ours, theirs = pc.list_flatten(ours), pc.list_flatten(theirs)
    if not pa.types.is_float32(ours.type) or not ours.is_null().equals(theirs.is_null()):
        return False
    pairs = (one.drop_null().to_numpy() for one in (ours, theirs))
    return bool(np.allclose(*pairs, rtol=ROUNDING, atol=ROUNDING))


def check_sealed(lake: Store) -> None:
    """The files under data/ are those of the seal, byte for byte; there is one run."""
    files = {file["path"]: file for file in seal(lake)["files"]}
    assert sorted(files) == list(lake.list("data"))
    for path, file in files.items():
        content = lake.read(path)
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["size_bytes"], file["sha256"]), path
        assert pq.read_metadata(pa.BufferReader(content)).num_rows == file["rows"]
    runs = {path.split("/")[2] for path in lake.list("runs") if path.endswith("plan.json")}
    assert runs == {RUN}


def seal(lake: Store) -> dict:
    """Return the seal of the only run."""
    [path] = [path for path in lake.list("runs") if path.endswith(f"/{RUN}/seal.json")]
    return json.loads(lake.read(path))
