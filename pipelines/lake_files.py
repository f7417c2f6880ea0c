"""The files of a lake as an engine outside sees them: where they lie, and which folders there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipelines.store import Store
from schemas import layout
from schemas.tables import TABLES
from workers.stores import endpoint_and_region

FIRST_DAY: Final = "2024-01-01"  # of a lake without files


@dataclass(frozen=True, slots=True)
class LakeFiles:
    """What a script needs to know of a lake: where an engine finds it, and which files it has now."""

    root: str
    endpoint: str | None
    files: Mapping[str, list[str]]  # by table, oldest day first

    def folder(self, table: str) -> str:
        """Return where an engine finds a table."""
        return f"{self.root}/{layout.DATA}/{table}"

    def partitions(self, table: str) -> list[tuple[str, str]]:
        """Return corpus and day of every folder of a table."""
        parts = {tuple(path.split("/")[2:4]) for path in self.files[table]}
        return sorted((corpus.removeprefix("corpus="), day.removeprefix("dt=")) for corpus, day in parts)

    @property
    def corpora(self) -> list[str]:
        """All corpora that have files."""
        return sorted({corpus for table in self.files for corpus, _ in self.partitions(table)})

    @property
    def first_day(self) -> str:
        """The day of the oldest file."""
        return min((day for table in self.files for _, day in self.partitions(table)), default=FIRST_DAY)


def look_at(store: Store, location: str | None = None) -> LakeFiles:
    """Return what a script needs to know; `location` is the lake's root as the engine names it, if otherwise."""
    found: dict[str, list[str]] = {table: [] for table in TABLES}
    for path in store.list(layout.DATA):
        if path.endswith(".parquet") and (table := path.split("/")[1]) in found:
            found[table].append(path)
    files = {table: sorted(paths, key=lambda path: path.split("/")[3:]) for table, paths in found.items()}
    endpoint = None if store.is_local or location else endpoint_and_region(store.options)[0]
    return LakeFiles((location or store.url("")).rstrip("/"), endpoint, files)
