"""Feeding Iceberg tables: every sealed run becomes one snapshot of each table, exactly once.

The published files are registered as they are (`add_files`): nothing is copied or rewritten. A run that has no rows for
a table is an empty snapshot there, so that every table tells how far it has come.

What makes it exactly once is a property of the table for each corpus, the last run registered
(`phonolake.run.<corpus>`). It changes in the commit that adds the files, and that commit demands that the table's head
is still the snapshot which was looked at. So a second publisher is refused, looks again and finds the run there; and so
does who lost an answer. The snapshots name corpus and run too, but snapshots expire; the property stays.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import pyarrow as pa

from pipelines.errors import PhonolakeError, WarehouseError
from pipelines.iceberg_catalog import data_uri, open_catalog
from pipelines.runs import corpora, find_runs, load_seal
from pipelines.store import Store
from schemas.records import Seal
from schemas.tables import TABLES

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table, Transaction

DEFAULT_NAMESPACE: Final = "phonolake"
TRIES: Final = 8
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0

LAKE: Final = "phonolake.lake"
CORPUS: Final = "phonolake.corpus"
RUN: Final = "phonolake.run"
_LAST: Final = "recordings"
ORDER: Final = (*(table for table in TABLES if table != _LAST), _LAST)
"""As files are published: who finds a recording in its table finds its rows in the others."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Registered:
    """A run that was not in a table when this command came, and is now."""

    table: str
    corpus: str
    run: str
    files: int
    rows: int


def register(store: Store, catalog: str, namespace: str = DEFAULT_NAMESPACE) -> Iterator[Registered]:
    """Register the sealed runs that the tables lack, oldest first; yield each snapshot once it stands.

    Raises:
        RecipeError: the catalog's name or uri is wrong, or pyiceberg is missing.
        WarehouseError: the catalog or a table refuses; what is registered stays, and the same command goes on.
    """
    feed = Feed(store, open_catalog(store, catalog), namespace)
    _retried(f"make the namespace {namespace}", lambda: feed.catalog.create_namespace_if_not_exists(namespace))
    tables = {table: _retried(f"prepare {feed.name(table)}", partial(feed.prepared, table)) for table in ORDER}
    for corpus in corpora(store):
        done = {table: last_run(found, corpus) for table, found in tables.items()}
        for run in sorted(find_runs(store, corpus).sealed):
            waiting = [table for table in ORDER if run > done[table]]
            if waiting:
                yield from _registered(feed, load_seal(store, corpus, run), waiting)


def _registered(feed: "Feed", seal: Seal, tables: list[str]) -> Iterator[Registered]:
    """Register a run in these tables, which must be all that it has rows for."""
    if unknown := {file.table for file in seal.files} - TABLES.keys():
        raise WarehouseError(
            f"run {seal.run} of {seal.corpus} has tables of a later release: {', '.join(sorted(unknown))}; "
            f"register it with that release"
        )
    for table in tables:
        act = f"register run {seal.run} of {seal.corpus} in {feed.name(table)}"
        yield _retried(act, partial(feed.add, table, seal))


def last_run(table: "Table", corpus: str) -> str:
    """Return the last run of a corpus that a table holds, "" where it holds none."""
    summaries = (snapshot.summary for snapshot in table.metadata.snapshots if snapshot.summary)
    told = [summary[RUN] or "" for summary in summaries if summary.get(CORPUS) == corpus]
    return max([table.properties.get(f"{RUN}.{corpus}", ""), *told])


@dataclass(frozen=True)
class Feed:
    """A lake, and the namespace of a catalog that its tables stand in."""

    store: Store
    catalog: "Catalog"
    namespace: str

    def name(self, table: str) -> str:
        """Return what the catalog calls a table."""
        return f"{self.namespace}.{table}"

    def prepared(self, table: str) -> "Table":
        """Return a table as the catalog has it now: made if there is none, with every column of our schema.

        Raises:
            WarehouseError: a table of this name belongs to something else.
        """
        if not self.catalog.table_exists(self.name(table)):
            self._create(table)
        found = self.catalog.load_table(self.name(table))
        if found.properties.get(LAKE) != self.store.url(""):
            raise WarehouseError(
                f"{self.name(table)} is not fed from {self.store.uri} but from {found.properties.get(LAKE)}; choose "
                f"another --namespace, or set the table's property {LAKE} to {self.store.url('')} if the lake moved"
            )
        with found.update_schema() as schema:  # no commit where nothing is new; older rows have nulls there
            schema.union_by_name(described(table))
        return found

    def _create(self, table: str) -> None:
        from pyiceberg.transforms import DayTransform, IdentityTransform

        properties = {LAKE: self.store.url("")}
        made = self.catalog.create_table_transaction(self.name(table), described(table), properties=properties)
        with made, made.update_spec() as spec:
            spec.add_field("corpus_id", IdentityTransform(), "corpus_id")
            spec.add_field("ingested_at", DayTransform(), "ingested_at_day")

    def add(self, table: str, seal: Seal) -> Registered:
        """Register a run in a table, if it is not there: one commit, which a change of the table meanwhile undoes."""
        found = self.prepared(table)
        files = [file for file in seal.files if file.table == table and file.rows]
        rows = sum(file.rows for file in files)
        if seal.run > last_run(found, seal.corpus):
            self._staged(found, seal, [data_uri(self.store, file.path) for file in files], rows).commit_transaction()
        return Registered(table, seal.corpus, seal.run, len(files), rows)

    def _staged(self, table: "Table", seal: Seal, paths: list[str], rows: int) -> "Transaction":
        """Return the commit that adds files, checked; that they are new is known, and asking reads every manifest."""
        adds = once(table)
        try:
            adds.set_properties({f"{RUN}.{seal.corpus}": seal.run})
            adds.add_files(paths, {CORPUS: seal.corpus, RUN: seal.run}, check_duplicate_files=False)
        except (ValueError, FileNotFoundError) as error:
            raise WarehouseError(
                f"run {seal.run} of {seal.corpus} does not fit {'.'.join(table.name())}: {error}; "
                f"phonolake verify {self.store.uri} says what is wrong with the lake"
            ) from error
        summary = adds.table_metadata.snapshots[-1].summary
        added = int((summary and summary.get("added-records")) or 0)
        if added != rows:
            raise WarehouseError(
                f"run {seal.run} of {seal.corpus} has {rows:,} rows for {'.'.join(table.name())} by its seal and "
                f"{added:,} by its files' footers; nothing is registered, phonolake verify {self.store.uri} says more"
            )
        return adds


def once(table: "Table") -> "Transaction":
    """Return a transaction that gives a conflict back, unless the commit in question did land.

    pyiceberg's answer to a conflict is to append the same files on top of what the other did. Its table property for
    the number of tries would stop that, for every other writer too, and would skip the look whether the commit landed:
    the files of one that did would be deleted.
    """
    from pyiceberg.exceptions import CommitFailedException
    from pyiceberg.table import Transaction

    class Once(Transaction):
        def _rebuild_snapshot_updates(self) -> None:
            raise CommitFailedException("the table changed meanwhile")

    return Once(table)


def described(table: str) -> pa.Schema:
    """Return a table's schema with the descriptions where Iceberg looks for them."""
    return pa.schema([field.with_metadata({"doc": field.metadata[b"description"]}) for field in TABLES[table]])


def _retried(act: str, action: Callable[[], _T]) -> _T:
    """Do what looks before it acts; a conflict and a lost answer alike are met by doing it again."""
    for attempt in range(1, TRIES + 1):
        try:
            return action()
        except PhonolakeError:
            raise
        except Exception as error:
            if attempt == TRIES:
                raise WarehouseError(f"cannot {act}: {type(error).__name__}: {error}") from error
            longest = min(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
            time.sleep(longest * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


def registration_text(made: list[Registered], namespace: str) -> str:
    """Return what was registered as a person reads it, a line a run."""
    runs: dict[tuple[str, str], list[Registered]] = {}
    for one in made:
        runs.setdefault((one.corpus, one.run), []).append(one)
    lines = [
        f"run {run} of corpus {corpus}: {sum(one.files for one in ones):,} files, "
        f"{sum(one.rows for one in ones):,} rows in {len(ones)} tables of {namespace}"
        for (corpus, run), ones in runs.items()
    ]
    return "\n".join(lines) or f"nothing new for the tables of {namespace}"
