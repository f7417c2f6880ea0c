"""Planning: the listing minus what the ledger holds, as one create-once record and one Parquet file beside it.

No Ray Data here: the anti-join runs in DuckDB over Arrow columns, so that a million recordings need no million Python
objects.
"""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.recipe import Recipe
from pipelines.runs import Runs, load_ledger, writer_id
from pipelines.stages import Stage
from pipelines.store import Store
from schemas import layout, records
from schemas.ids import recording_id
from schemas.records import Plan, StageRecord

UNIT_BYTES: Final = 8 << 20
UNIT_ROWS: Final = 256
HASH_ROWS: Final = 50_000  # rows whose ids are computed together

_JOIN: Final = """
WITH done AS (
    SELECT recording_id, flatten(list(stages)) AS keys,  -- tried; what failed waits for a changed object
        bool_and(outcome = 'failed') AS never_decoded
    FROM ledger GROUP BY recording_id
),
needed AS (
    SELECT l.recording_id, l.uri, l.etag, l.size_bytes, l.modified_ns, l.metadata, d.recording_id IS NULL AS is_new,
        [s.id FOR s IN $stages
            IF d.recording_id IS NULL OR (NOT d.never_decoded AND NOT list_contains(d.keys, s.key))]
            AS stages, NULL::VARCHAR[] AS "only"
    FROM listing l LEFT JOIN done d USING (recording_id)
)
SELECT * FROM needed WHERE len(stages) > 0 ORDER BY recording_id
"""

_COUNTS: Final = """
WITH latest AS (SELECT uri, arg_max(recording_id, run) AS recording_id FROM ledger GROUP BY uri)
SELECT
    (SELECT count(*) FROM needed WHERE is_new AND uri NOT IN (SELECT uri FROM latest)) AS new,
    (SELECT count(*) FROM needed WHERE is_new AND uri IN (SELECT uri FROM latest)) AS changed,
    (SELECT count(*) FROM needed WHERE NOT is_new) AS stage_only,
    (SELECT count(*) FROM latest WHERE uri NOT IN (SELECT uri FROM listing)) AS gone
"""


@dataclass(frozen=True, slots=True)
class Delta:
    """What a run would do.

    Attributes:
        recordings: schema records.PLAN, sorted by recording_id.
        listed: objects in the source.
        new: objects never seen.
        changed: objects seen at another version.
        stage_only: recordings that are done, but for stages the recipe has gained.
        gone: objects seen before that the source no longer holds.
    """

    recordings: pa.Table
    listed: int
    new: int
    changed: int
    stage_only: int
    gone: int

    @property
    def size_bytes(self) -> int:
        """Bytes to read."""
        return pc.sum(self.recordings["size_bytes"]).as_py() or 0


def find_delta(store: Store, runs: Runs, corpus: str, listing: pa.Table, stages: list[Stage]) -> Delta:
    """Subtract what sealed runs did from the listing (schema sources.LISTING)."""
    listing = with_ids(corpus, listing)
    connection = duckdb.connect()
    connection.register("listing", listing)
    connection.register("ledger", load_ledger(store, runs))
    wanted = [{"id": stage.id, "key": stage.key} for stage in stages]
    needed = connection.sql(_JOIN, params={"stages": wanted}).to_arrow_table()
    connection.register("needed", needed)
    [counts] = connection.sql(_COUNTS).fetchall()
    recordings = needed.select(records.PLAN.names).cast(records.PLAN)
    return Delta(recordings, listing.num_rows, *counts)


def with_ids(corpus: str, listing: pa.Table) -> pa.Table:
    """Return a listing with the column recording_id."""
    ids = []
    for batch in listing.select(["uri", "etag", "size_bytes", "modified_ns"]).to_batches(max_chunksize=HASH_ROWS):
        rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        ids.append(pa.array([recording_id(corpus, *row) for row in rows], pa.string()))
    return listing.append_column("recording_id", pa.chunked_array(ids, pa.string()))


def write_plan(store: Store, recipe: Recipe, runs: Runs, delta: Delta, stages: list[Stage]) -> Plan:
    """Write the recordings under a unique name, then the create-once plan.json; adopt another writer's if it won."""
    run = runs.next
    recordings_file = f"{layout.run_folder(recipe.corpus, run)}/plan-{uuid.uuid4().hex}.parquet"
    units = _units(delta.recordings["size_bytes"].to_numpy())
    store.put(recordings_file, _as_parquet(delta.recordings, units))
    sizes = delta.recordings["size_bytes"].to_numpy()
    plan = Plan(
        corpus=recipe.corpus,
        run=run,
        planned_at=datetime.now(UTC).isoformat(timespec="seconds"),
        recipe_fingerprint=recipe.fingerprint(),
        recipe=recipe.model_dump(mode="json"),
        recordings_file=recordings_file,
        recordings=delta.recordings.num_rows,
        size_bytes=delta.size_bytes,
        unit_rows=[end - start for start, end in units],
        unit_bytes=[int(sizes[start:end].sum()) for start, end in units],
        stages=[_record(stage) for stage in stages],
        writer=writer_id(),
    )
    store.create(layout.plan_file(recipe.corpus, run), records.to_json(plan))
    return records.read_plan(store.read(layout.plan_file(recipe.corpus, run)))


def _units(sizes: np.ndarray) -> list[tuple[int, int]]:
    """Cut rows into consecutive units of at most UNIT_ROWS rows and about UNIT_BYTES; return (start, end) of each."""
    units, start, held = [], 0, 0
    for row, size in enumerate(map(int, sizes)):
        if row > start and (held + size > UNIT_BYTES or row - start >= UNIT_ROWS):
            units.append((start, row))
            start, held = row, 0
        held += size
    return [*units, (start, len(sizes))] if len(sizes) else []


def _as_parquet(recordings: pa.Table, units: list[tuple[int, int]]) -> bytes:
    """Return the plan's Parquet file, a row group a unit, so that a task reads just its own."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, records.PLAN, compression="zstd") as writer:
        for start, end in units:
            writer.write_table(recordings.slice(start, end - start), row_group_size=max(1, end - start))
    return bytes(sink.getvalue())


def _record(stage: Stage) -> StageRecord:
    revision = stage.checkpoint.revision if stage.checkpoint else None
    return StageRecord(id=stage.id, table=stage.table, fingerprint=stage.fingerprint, revision=revision)
