"""The runs of a corpus as their records say: which exist, which are sealed, which is open."""

import uuid
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.store import Store
from schemas import layout, records
from schemas.records import Plan, Seal


def writer_id() -> str:
    """Return an id for whoever writes a record, so that it knows its own again."""
    return uuid.uuid4().hex


def read_table(store: Store, path: str, columns: list[str] | None = None) -> pa.Table:
    """Read a whole Parquet object."""
    return pq.read_table(pa.BufferReader(store.read(path)), columns=columns)


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of one corpus, oldest first."""

    corpus: str
    names: list[str]
    sealed: frozenset[str]

    @property
    def open(self) -> str | None:
        """The unsealed run; there is at most one, the last."""
        return next((name for name in self.names if name not in self.sealed), None)

    @property
    def next(self) -> str:
        """The name of the run to plan next."""
        return layout.run_name(int(self.names[-1]) + 1 if self.names else 1)


def find_runs(store: Store, corpus: str) -> Runs:
    """Look up the runs of a corpus."""
    objects = store.list(f"{layout.RUNS}/{corpus}")
    parts = [path.removeprefix(f"{layout.RUNS}/{corpus}/").split("/") for path in objects]
    runs = [(folder, rest) for folder, *rest in parts if folder.isdigit()]  # a copy somebody made is none
    names = sorted(folder for folder, rest in runs if rest == ["plan.json"])
    sealed = frozenset(folder for folder, rest in runs if rest == ["seal.json"])
    return Runs(corpus, names, sealed)


def corpora(store: Store) -> list[str]:
    """Return the corpora that have runs in a lake."""
    return sorted({path.split("/")[1] for path in store.list(layout.RUNS)})


def load_plan(store: Store, corpus: str, run: str) -> Plan:
    """Read a run's plan."""
    return records.read_plan(store.read(layout.plan_file(corpus, run)))


def load_seal(store: Store, corpus: str, run: str) -> Seal:
    """Read a run's seal."""
    return records.read_seal(store.read(layout.seal_file(corpus, run)))
