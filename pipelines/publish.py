"""Publishing: from the verdict alone, each final file is made and put create-once; by anyone, any number of times."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from pipelines.merge import LocalFragment, Span, merged, winning_keys
from pipelines.parquet import footer, write_parquet
from pipelines.store import Store
from schemas.records import FinalFile, Plan, PublishedFile, Verdict
from schemas.tables import TABLES, leading_key

COPIERS: Final = 8

_T = TypeVar("_T")


def publish(store: Store, plan: Plan, verdict: Verdict) -> list[PublishedFile]:
    """Publish every file of a verdict; return them in its order.

    `recordings` comes last, so that a reader who finds a recording there finds its rows in every other table.
    """
    facts: dict[str, PublishedFile] = {}
    for last in (False, True):
        files = [file for file in verdict.files if (file.table == "recordings") == last]
        facts |= {one.path: one for one in _published(store, plan, verdict.rows_file, files)}
    return [facts[file.path] for file in verdict.files]


def _published(store: Store, plan: Plan, rows_file: str, files: list[FinalFile]) -> list[PublishedFile]:
    """Publish some files: copies from here, rewrites as Ray tasks."""
    rewrite, plan = ray.remote(num_cpus=1)(rewritten), plan.without_units()
    pending = [None if file.whole else rewrite.remote(store, plan, rows_file, file) for file in files]
    with ThreadPoolExecutor(COPIERS) as copiers:
        copies = [copiers.submit(copied, store, file) if file.whole else None for file in files]
        return [copy.result() if copy else ray.get(task) for copy, task in zip(copies, pending, strict=True)]


def copied(store: Store, file: FinalFile) -> PublishedFile:
    """Publish a file that is one fragment under another name."""
    source = file.sources[0]
    _unless_published(store, file.path, lambda: store.copy(source.path, file.path))
    return PublishedFile(file.table, file.path, source.rows, source.size_bytes, source.sha256)


def rewritten(store: Store, plan: Plan, rows_file: str, file: FinalFile) -> PublishedFile:
    """Publish a file gathered from several fragments: winning rows only, sorted; a slice in memory at a time."""
    ours = None
    if not store.exists(file.path):  # complete since it exists
        ours = _unless_published(store, file.path, lambda: _rewrite(store, plan, rows_file, file))
    return ours or _standing(store, file)


def _unless_published(store: Store, path: str, make: Callable[[], _T]) -> _T | None:
    """Make a file; None if staging has gone, as it does after the seal, when all files are there."""
    try:
        return make()
    except FileNotFoundError:
        if not store.exists(path):
            raise
        return None


def _rewrite(store: Store, plan: Plan, rows_file: str, file: FinalFile) -> PublishedFile | None:
    """Make a file and put it; None if another was faster."""
    schema = TABLES[file.table].with_metadata(footer(plan, file.table))
    with store.work_folder() as folder:
        winners = _winners(store.local_copy(rows_file, folder), file)
        fragments = [
            LocalFragment(store.local_copy(source.path, folder), winning_keys(winners, source.receipt))
            for source in file.sources
        ]
        target = folder / "merged.parquet"
        pieces = merged(file.table, fragments, Span(file.first, file.before))
        write_parquet(target, schema, pieces, leading_key(file.table))
        facts = _describe(file, target)
        return facts if store.create_from(file.path, target) else None


def _standing(store: Store, file: FinalFile) -> PublishedFile:
    """Return the facts of a file that is published, whoever wrote it."""
    with store.work_folder() as folder:
        return _describe(file, store.local_copy(file.path, folder))


def _describe(file: FinalFile, local: Path) -> PublishedFile:
    with open(local, "rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    return PublishedFile(file.table, file.path, pq.read_metadata(local).num_rows, local.stat().st_size, digest)


def _winners(rows_file: Path, file: FinalFile) -> pa.Table:
    """Return the verdict's rows that bear on a file; they are sorted by recording, so most row groups are skipped."""
    bounds = [("recording_id", ">=", file.first)]
    if file.before is not None:
        bounds.append(("recording_id", "<", file.before))
    columns = ["recording_id", "segment_index", "receipt"]
    return pq.read_table(rows_file, columns=columns, filters=bounds, partitioning=None)
