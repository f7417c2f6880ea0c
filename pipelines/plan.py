"""Planning: the listing minus what the ledger holds, as one create-once record and one Parquet file beside it.

No Ray Data here: the anti-join runs in DuckDB over Arrow columns, so that a million recordings need no million Python
objects.
"""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import RecipeError
from pipelines.ledger import STANDING, load_ledger, parameters
from pipelines.recipe import Recipe
from pipelines.recipe_sections import REFERENCE
from pipelines.runs import Runs, writer_id
from pipelines.scratch import database, spans, within
from pipelines.stages import Stage
from pipelines.store import Store
from schemas import layout, records
from schemas.ids import recording_id
from schemas.records import Plan, StageRecord

UNIT_BYTES: Final = 8 << 20
UNIT_ROWS: Final = 256
GROUP_ROWS: Final = 4096  # of the plan's Parquet: what a task reads is small, and so is the footer
SAMPLED_ROWS: Final = 1_000  # whose columns a message names
SORT_MEMORY: Final = "2GB"  # as much as ten million recordings take besides, listed and planned
HASH_ROWS: Final = 50_000  # rows whose ids are computed together

PLAN_ORDER: Final = 'place.shard NULLS FIRST, place.piece, place."offset", recording_id'
"""How a plan is sorted: objects by their ids, and so at random, members of a shard as they lie there."""

_JOIN: Final = f"""
WITH {STANDING},
needed AS (
    SELECT l.*, s.recording_id IS NULL OR NOT s.is_newest AS is_new, CASE
        WHEN s.recording_id IS NULL OR NOT s.holds THEN [w.id FOR w IN $stages]
        WHEN s.failed THEN []  -- it waits for a changed object, or for phonolake retry
        ELSE [w.id FOR w IN $stages IF NOT list_contains(s.tried, w.key)] END AS stages, NULL::VARCHAR[] AS "only"
    FROM listing l LEFT JOIN standing s USING (recording_id)
)
SELECT * FROM needed WHERE len(stages) > 0
"""

_COUNTS: Final = """
WITH uris AS (SELECT DISTINCT uri FROM ledger)
SELECT
    (SELECT count(*) FROM needed WHERE is_new AND uri NOT IN (SELECT uri FROM uris)) AS new,
    (SELECT count(*) FROM needed WHERE is_new AND uri IN (SELECT uri FROM uris)) AS changed,
    (SELECT count(*) FROM needed WHERE NOT is_new) AS stage_only,
    (SELECT count(*) FROM uris WHERE uri NOT IN (SELECT uri FROM listing)) AS gone
"""


@dataclass(frozen=True, slots=True)
class Delta:
    """What a run would do.

    Attributes:
        recordings: schema records.PLAN, in PLAN_ORDER.
        listed: objects in the source.
        new: objects never seen.
        changed: objects of which the last run saw another version.
        stage_only: recordings that are done, but for stages that the recipe has gained or changed.
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
    ledger = load_ledger(store, runs)
    parts, counts = [], np.zeros(4, np.int64)
    for span in spans(listing["uri"], listing.num_rows + ledger.num_rows):  # a recording has one uri
        with database(listing=within(listing, "uri", span), ledger=within(ledger, "uri", span)) as scratch:
            parts.append(scratch.sql(_JOIN, params=parameters(stages)).to_arrow_table())
            scratch.register("needed", parts[-1])
            counts += scratch.sql(_COUNTS).fetchall()[0]
    with database(SORT_MEMORY, needed=pa.concat_tables(parts).select(records.PLAN.names)) as scratch:
        recordings = scratch.sql(f"FROM needed ORDER BY {PLAN_ORDER}").to_arrow_table().cast(records.PLAN)
    return Delta(recordings, listing.num_rows, *counts.tolist())


def refuse_missing_texts(recipe: Recipe, listing: pa.Table) -> None:
    """Refuse to align texts of a column that no recording has: each would count as done without one.

    Raises:
        RecipeError: with the columns that there are.
    """
    columns = {section.text_column for section in recipe.transcripts if section.model == REFERENCE}
    metadata = listing["metadata"]
    for column in columns:
        texts = pc.map_lookup(metadata, column, "first")
        if listing.num_rows and texts.null_count == listing.num_rows:
            known = {key for row in metadata.slice(0, SAMPLED_ROWS).to_pylist() for key, _ in row or ()}
            raise RecipeError(
                f"transcripts: text_column is {column!r}, and no recording of {recipe.source.where} has it; "
                f"they have {', '.join(sorted(known)) or 'no columns of their own'}"
            )


def with_ids(corpus: str, listing: pa.Table) -> pa.Table:
    """Return a listing with the column recording_id."""
    ids = []
    shard_bytes = pc.struct_field(listing["place"], "shard_bytes")  # a member's version is its shard's
    versions = listing.select(["uri", "etag", "size_bytes", "modified_ns"])
    versions = versions.set_column(2, "size_bytes", pc.coalesce(shard_bytes, listing["size_bytes"]))
    for batch in versions.to_batches(max_chunksize=HASH_ROWS):
        rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        ids.append(pa.array([recording_id(corpus, *row) for row in rows], pa.string()))
    return listing.append_column("recording_id", pa.chunked_array(ids, pa.string()))


def write_plan(
    store: Store, recipe: Recipe, runs: Runs, delta: Delta, stages: list[Stage], *, retry: bool = False
) -> Plan:
    """Write the recordings under a unique name, then the create-once plan.json; adopt another writer's if it won."""
    run = runs.next
    recordings_file = f"{layout.run_folder(recipe.corpus, run)}/plan-{uuid.uuid4().hex}.parquet"
    units = _units(delta.recordings)
    store.put(recordings_file, _as_parquet(delta.recordings))
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
        retry=retry,
    )
    store.create(layout.plan_file(recipe.corpus, run), records.to_json(plan))
    return records.read_plan(store.read(layout.plan_file(recipe.corpus, run)))


def _units(recordings: pa.Table) -> list[tuple[int, int]]:
    """Cut rows into consecutive units of at most UNIT_ROWS rows and about UNIT_BYTES; return (start, end) of each.

    A unit holds objects or members of one shard, and a piece of a shard is never cut: it is read from its beginning.
    """
    units, start, held = [], 0, 0
    pieces = zip(*(pc.struct_field(recordings["place"], name).to_pylist() for name in ("shard", "piece")), strict=True)
    before: tuple[str | None, int | None] = (None, None)
    for row, (size, here) in enumerate(zip(recordings["size_bytes"].to_pylist(), pieces, strict=True)):
        full = held + size > UNIT_BYTES or row - start >= UNIT_ROWS
        together = here == before if here[1] is not None else here[0] == before[0] and before[1] is None and not full
        if row > start and not together:
            units.append((start, row))
            start, held = row, 0
        held += size
        before = here
    return [*units, (start, recordings.num_rows)] if recordings.num_rows else []


def _as_parquet(recordings: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    pq.write_table(recordings, sink, compression="zstd", row_group_size=GROUP_ROWS)
    return memoryview(sink.getvalue())


def _record(stage: Stage) -> StageRecord:
    revision = stage.checkpoint.revision if stage.checkpoint else None
    return StageRecord(id=stage.id, table=stage.table, fingerprint=stage.fingerprint, revision=revision)
