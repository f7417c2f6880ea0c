"""Garbage: what sealed runs left in staging, and what died writers left half done."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipelines.runs import corpora, find_runs
from pipelines.store import Store
from schemas import layout

TEMPORARY_SECONDS: Final = 24 * 3600.0  # nobody writes one file for that long


@dataclass(frozen=True, slots=True)
class Garbage:
    """What was deleted: staging folders of sealed runs, the objects in them, and abandoned temporary files."""

    folders: list[str]
    objects: int
    size_bytes: int
    temporary: int


def collect_garbage(store: Store) -> Garbage:
    """Delete the staging folders of sealed runs, and temporary files older than a day; touch nothing else.

    An open run's staging holds work that its next attempt builds on, and stays.

    Raises:
        StoreError: the store refuses to delete.
    """
    folders, objects, size_bytes = [], 0, 0
    for corpus in corpora(store):
        for run in sorted(find_runs(store, corpus).sealed):
            found = store.list(folder := layout.staging_folder(corpus, run))
            if found:
                store.delete_folder(folder)
                folders.append(folder)
                objects, size_bytes = objects + len(found), size_bytes + sum(found.values())
    return Garbage(folders, objects, size_bytes, _delete_temporary(store) if store.is_local else 0)


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
