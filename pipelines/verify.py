"""Verifying a lake: its records, published files and their rows against each other, from the bytes."""

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from pipelines import completeness, invariants
from pipelines.errors import PhonolakeError
from pipelines.invariants import Finding, Listed, RunFacts
from pipelines.row_keys import RowKeys
from pipelines.store import Store
from schemas import layout
from schemas.records import Attempt, Plan, Seal, Verdict

UNREADABLE: Final = (pa.ArrowException, OSError, ValueError)  # what reading a damaged Parquet file raises
_OF_A_RUN: Final = {"plan.json", "attempts", "verdict.json", "ledger.parquet", "seal.json"}
_READERS: Final[dict[type, TypeAdapter[Any]]] = {kind: TypeAdapter(kind) for kind in (Plan, Attempt, Verdict, Seal)}
"""They look at the type of every value, also inside lists, and pass over what later releases add."""

_Record = TypeVar("_Record", Plan, Attempt, Verdict, Seal)


@dataclass(frozen=True, slots=True)
class Verification:
    """What was read, what does not hold (in a sound lake: nothing), and what is worth knowing all the same."""

    runs: int
    files: int
    rows: int
    size_bytes: int
    findings: list[Finding]
    notes: list[str]


def verify(store: Store) -> Verification:
    """Check every invariant of a lake from its bytes. Writes nothing into it, and may be called while a run goes on.

    Raises:
        StoreError: the store does not answer, or refuses; that says nothing of the lake.
        PhonolakeError: the scratch disk has no space for the keys of the rows.
    """
    with tempfile.TemporaryDirectory(prefix="phonolake-") as folder:
        try:
            with closing(RowKeys(Path(folder))) as keys:
                return Verifier(store, Path(folder), keys).verify()
        except duckdb.Error as error:
            message = f"cannot compare keys in {folder}: {error}; set TMPDIR to a folder with space"
            raise PhonolakeError(message) from error


class Verifier:
    """Walks through a lake once and notes what it finds, with one object at a time on the scratch disk."""

    def __init__(self, store: Store, folder: Path, keys: RowKeys) -> None:
        """Take a lake, a local folder for copies, and where keys are kept."""
        self._store, self._folder, self._keys = store, folder, keys
        self._findings: list[Finding] = []
        self._notes: list[str] = []
        self._listed: set[str] = set()
        self._runs = self._files = self._size_bytes = 0

    def verify(self) -> Verification:
        """Check the runs of every corpus, then what else lies among the data."""
        present = self._store.list(layout.DATA)  # first: what is published later is listed, but need not be here
        for corpus, names in run_folders(self._store).items():
            self._findings += invariants.runs_are_numbered_densely(corpus, names)
            self._corpus(corpus, [name for name in names if invariants.is_run_name(name)])
        self._findings += invariants.data_holds_only_what_records_list(present, self._listed)
        counts = (self._runs, self._files, self._keys.rows, self._size_bytes)
        return Verification(*counts, self._findings, self._notes)

    def _corpus(self, corpus: str, runs: list[str]) -> None:
        self._keys.next_corpus()
        sealed = [run for run in runs if self._run(corpus, run)]
        self._findings += invariants.only_the_last_run_is_open(corpus, runs, sealed)
        self._findings += completeness.no_stage_is_booked_twice(self._keys)
        for run in sealed:
            if staged := self._store.list(layout.staging_folder(corpus, run)):
                self._notes.append(
                    f"run {run} of corpus {corpus} is sealed and has left {len(staged):,} objects in staging, "
                    f"{sum(staged.values()) / 1e6:,.1f} MB; delete them: phonolake gc {self._store.uri}"
                )

    def _run(self, corpus: str, run: str) -> bool:
        """Check a run; return whether it is sealed."""
        self._runs += 1
        self._keys.next_run()
        plan_file, seal_file = layout.plan_file(corpus, run), layout.seal_file(corpus, run)
        sealed = self._store.exists(seal_file)
        decided = sealed or self._store.exists(layout.verdict_file(corpus, run))
        plan = self._record(plan_file, Plan)
        verdict = self._record(layout.verdict_file(corpus, run), Verdict) if decided else None
        seal = self._record(seal_file, Seal) if sealed else None
        for path in self._store.list(f"{layout.run_folder(corpus, run)}/attempts"):
            self._record(path, Attempt)
        for path, record in ((plan_file, plan), (seal_file, seal)):
            self._findings += invariants.a_record_is_of_its_run(path, corpus, run, record) if record else ()
        if record := seal or plan:
            self._published(RunFacts.of(corpus, run, record), verdict, seal, sealed=sealed)
        if plan and verdict and seal:
            self._findings += invariants.the_seal_repeats_the_plan(seal_file, seal, plan)
            self._rows(RunFacts.of(corpus, run, seal), plan, verdict, seal)
        return sealed

    def _record(self, path: str, kind: type[_Record]) -> _Record | None:
        """Return a record; None, and a finding, where it is not there or is not one."""
        try:
            record: _Record = _READERS[kind].validate_json(self._store.read(path), strict=True)
            return record
        except FileNotFoundError:
            self._find("record_missing", path, "there is no such record")
        except ValidationError as error:
            first = error.errors()[0]
            where = " in " + ".".join(map(str, first["loc"])) if first["loc"] else ""
            self._find("record_unreadable", path, f"it is no {kind.__name__.lower()}: {first['msg']}{where}")
        return None

    def _published(self, run: RunFacts, verdict: Verdict | None, seal: Seal | None, *, sealed: bool) -> None:
        """Check the files of a run: all that its seal lists, or those of its verdict that are there by now."""
        files = invariants.listed_files(verdict, seal)
        there = sum(self._file(run, file, must_be=sealed) for file in files)
        self._findings += completeness.no_row_is_doubled(self._keys)
        if not sealed:
            how = f"{there} of {len(files)} files are published" if verdict else "it has no verdict yet"
            self._notes.append(f"run {run.run} of corpus {run.corpus} is open: {how}")

    def _file(self, run: RunFacts, file: Listed, *, must_be: bool) -> bool:
        """Check a published file; return whether it is there."""
        self._listed.add(file.path)
        try:
            with self._copy(file.path) as local:
                self._files += 1
                self._size_bytes += local.stat().st_size
                self._findings += self._bytes(run, file, local)
            return True
        except FileNotFoundError:
            if must_be:
                self._find("file_missing", file.path, "the records of its run list it, and it is not there")
            return False

    def _bytes(self, run: RunFacts, file: Listed, local: Path) -> Iterator[Finding]:
        yield from invariants.the_path_says_table_corpus_day_and_run(run, file)
        try:
            yield from invariants.the_bytes_are_those_listed(file, local)
            with pq.ParquetFile(local) as opened:
                yield from invariants.the_rows_are_as_many_as_listed(file, opened)
                yield from invariants.the_footer_names_the_run(run, file, opened)
                odd = list(invariants.the_columns_are_those_of_the_table(file, opened))
                rows = () if odd else self._keys.keep_file(run, file, opened)
                yield from [*odd, *invariants.the_rows_are_their_runs_and_in_order(run, file, rows)]
        except UNREADABLE as error:
            yield Finding("file_unreadable", file.path, f"it cannot be read as Parquet: {error}")

    def _rows(self, run: RunFacts, plan: Plan, verdict: Verdict, seal: Seal) -> None:
        """Check the rows of a sealed run against its plan, its verdict and its ledger."""
        tables = {"planned": plan.recordings_file, "decided": verdict.rows_file, "booked": run.ledger}
        kept = [self._kept(name, path) for name, path in tables.items()]
        if all(kept):
            returned = seal.returned if verdict.abandoned else 0
            self._findings += completeness.records_agree(self._keys, run, plan, returned)
            self._findings += completeness.rows_are_those_that_records_say(self._keys, run)
            self._findings += completeness.the_seal_counts_what_the_ledger_holds(self._keys, run, seal)
            completeness.book(self._keys, run)

    def _kept(self, name: str, path: str) -> bool:
        """Keep a Parquet record; False, and a finding, where it is not there or is not one."""
        try:
            with self._copy(path) as local:
                self._keys.keep_record(name, local)
            return True
        except FileNotFoundError:
            self._find("record_missing", path, "there is no such record")
        except UNREADABLE as error:
            self._find("record_unreadable", path, f"it cannot be read: {error}")
        return False

    @contextmanager
    def _copy(self, path: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            yield self._store.local_copy(path, Path(folder))

    def _find(self, code: str, where: str, message: str) -> None:
        self._findings.append(Finding(code, where, message))


def run_folders(store: Store) -> dict[str, list[str]]:
    """Return the folders of each corpus that hold records of a run, sorted; what else lies there is no run yet."""
    parts = [path.split("/")[1:] for path in store.list(layout.RUNS)]
    found = {(corpus, run) for corpus, run, name, *_ in (one for one in parts if len(one) > 2) if name in _OF_A_RUN}
    return {corpus: sorted(run for of, run in found if of == corpus) for corpus in sorted({one for one, _ in found})}
