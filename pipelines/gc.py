"""Garbage: what sealed runs left in staging, records that lost, and what died writers left half done."""

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipelines.runs import corpora, find_runs, load_plan
from pipelines.store import Store
from schemas import layout, records

_KINDS: Final = ("plan", "verdict")
_RIVAL: Final = re.compile(rf"/({'|'.join(_KINDS)})-[0-9a-f]+\.parquet$")
TEMPORARY_SECONDS: Final = 24 * 3600.0  # nobody writes one file for that long


@dataclass(frozen=True, slots=True)
class Garbage:
    """What was deleted: staging folders of sealed runs, the objects in them, plans and verdicts that lost, and
    abandoned temporary files.
    """

    folders: list[str]
    objects: int
    size_bytes: int
    orphans: int
    temporary: int


def collect_garbage(store: Store) -> Garbage:
    """Delete what sealed runs left in staging, their losers' plans and verdicts, and temporary files older than a day.

    An open run's staging holds work that its next attempt builds on, and stays.

    Raises:
        StoreError: the store refuses to delete.
    """
    folders, objects, size_bytes, orphans = [], 0, 0, 0
    for corpus in corpora(store):
        for run in sorted(find_runs(store, corpus).sealed):
            found = store.list(folder := layout.staging_folder(corpus, run))
            if found:
                store.delete_folder(folder)
                folders.append(folder)
                objects, size_bytes = objects + len(found), size_bytes + sum(found.values())
            orphans += _delete_orphans(store, corpus, run)
    return Garbage(folders, objects, size_bytes, orphans, _delete_temporary(store) if store.is_local else 0)


def _delete_orphans(store: Store, corpus: str, run: str) -> int:
    """Delete the Parquet files of plans and verdicts that were not the first; nothing names them."""
    found = [path for path in store.list(layout.run_folder(corpus, run)) if _RIVAL.search(path)]
    if len(found) <= len(_KINDS):  # the plan's and the verdict's own
        return 0
    named = {load_plan(store, corpus, run).recordings_file}
    named.add(records.read_verdict(store.read(layout.verdict_file(corpus, run))).rows_file)
    orphans = [path for path in found if path not in named]
    for path in orphans:
        store.delete(path)
    return len(orphans)


def _delete_temporary(store: Store) -> int:
    folder = Path(store.full(layout.TEMPORARY))
    oldest = time.time() - TEMPORARY_SECONDS
    stale = [entry for entry in folder.glob("*") if _modified(entry) < oldest]
    for entry in stale:
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return len(stale)


def _modified(entry: Path) -> float:
    """Return when an entry was written last; a writer that has just finished has taken its own away: then never."""
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
