"""What must hold in a lake, a function a sentence: of a corpus's runs, of one published file, and of its rows.

pipelines.row_keys has what must hold between the rows of a run and its records.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas import layout
from schemas.ids import RECORDING_ID_HEX, SEGMENT_INDEX_DIGITS, segment_ids
from schemas.records import Plan, Seal, Verdict
from schemas.tables import SCHEMA_VERSION, SORT_KEYS, TABLES

LAST: Final = "\U0010ffff"  # where nulls sort
SEGMENT_ID: Final = f"^.{{{RECORDING_ID_HEX}}}-[0-9]{{{SEGMENT_INDEX_DIGITS},}}$"


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence that does not hold: a code, the object or folder it is about, and what is wrong with it."""

    code: str
    where: str
    message: str


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the records of a run say that all its files must say too; `stages` maps ids to fingerprints."""

    corpus: str
    run: str
    day: str
    base: str | None
    stages: dict[str, str]

    @classmethod
    def of(cls, corpus: str, run: str, record: Plan | Seal) -> "RunFacts":
        """Take them from a record; corpus and run from where it lies."""
        base = next((stage.id for stage in record.stages if stage.table == "segments"), None)
        stages = {stage.id: stage.fingerprint for stage in record.stages}
        return cls(corpus, run, record.planned_at[:10], base, stages)

    @property
    def folder(self) -> str:
        """Where the records lie."""
        return layout.run_folder(self.corpus, self.run)

    @property
    def ledger(self) -> str:
        """What the run did, a row a recording."""
        return layout.ledger_file(self.corpus, self.run)


@dataclass(frozen=True, slots=True)
class Listed:
    """A published file as a record lists it; None is what it does not say."""

    table: str
    path: str
    rows: int | None = None
    size_bytes: int | None = None
    sha256: str | None = None


def listed_files(verdict: Verdict | None, seal: Seal | None) -> list[Listed]:
    """Return the files of a run: the seal's, or before there is one the verdict's."""
    if seal:
        return [Listed(file.table, file.path, file.rows, file.size_bytes, file.sha256) for file in seal.files]
    files = []
    for file in verdict.files if verdict else ():
        facts = [(one.rows, one.size_bytes, one.sha256) for one in file.sources if file.whole]
        files.append(Listed(file.table, file.path, *(facts[0] if facts else ())))
    return files


# Of the runs of a corpus, and of the lake.


def is_run_name(name: str) -> bool:
    """Whether a folder is called like a run."""
    return name.isdecimal() and int(name) > 0 and name == layout.run_name(int(name))


def runs_are_numbered_densely(corpus: str, names: Sequence[str]) -> Iterator[Finding]:
    """The runs of a corpus are called 00001, 00002 and so on, with none left out."""
    for name in names:
        if not is_run_name(name):
            yield Finding("run_name", layout.run_folder(corpus, name), "records lie here, and no run is called so")
    before = 0
    for number in sorted(int(name) for name in names if is_run_name(name)):
        if number > before + 1:
            gap = f"there is a run {layout.run_name(number)}, and {number - before - 1:,} right before it are missing"
            yield Finding("run_missing", layout.run_folder(corpus, layout.run_name(before + 1)), gap)
        before = number


def only_the_last_run_is_open(corpus: str, runs: Sequence[str], sealed: Collection[str]) -> Iterator[Finding]:
    """A run that is followed by another is sealed."""
    for run in runs[:-1]:
        if run not in sealed:
            yield Finding("run_open", layout.run_folder(corpus, run), "it is not sealed, and there are runs after it")


def a_record_is_of_its_run(path: str, corpus: str, run: str, record: Plan | Seal) -> Iterator[Finding]:
    """A plan or seal names the corpus and the run that it lies with."""
    if (record.corpus, record.run) != (corpus, run):
        yield Finding("record_misplaced", path, f"it is of corpus {record.corpus}, run {record.run}")


def the_seal_repeats_the_plan(path: str, seal: Seal, plan: Plan) -> Iterator[Finding]:
    """Time, stages and number of recordings are the same in plan and seal, and the seal names its run's ledger."""
    names = [name for name in ("planned_at", "recordings", "stages") if getattr(seal, name) != getattr(plan, name)]
    names += [] if seal.ledger_file == layout.ledger_file(plan.corpus, plan.run) else ["ledger_file"]
    if names:
        yield Finding(
            "seal_differs", path, f"it differs from its plan, or from where things lie, in {', '.join(names)}"
        )


def data_holds_only_what_records_list(present: Iterable[str], listed: Collection[str]) -> Iterator[Finding]:
    """Every object under data/ is listed by a seal, or by the verdict of an open run."""
    for path in present:
        if path not in listed:
            yield Finding("file_stray", path, "no seal lists it, and no verdict of an open run; readers see it")


# Of one published file.


def the_path_says_table_corpus_day_and_run(run: RunFacts, file: Listed) -> Iterator[Finding]:
    """A file lies where readers look for its table, corpus and day."""
    start = layout.data_file(file.table, run.corpus, run.day, run.run, 0).removesuffix("0000.parquet")
    if not (file.path.startswith(start) and file.path.endswith(".parquet")):
        yield Finding("file_misplaced", file.path, f"this run's files of {file.table} are called {start}*.parquet")


def the_bytes_are_those_listed(file: Listed, local: Path) -> Iterator[Finding]:
    """A file has the size and the sha256 that its record says."""
    size = local.stat().st_size
    if file.size_bytes not in (None, size):
        yield Finding("file_size", file.path, f"it has {size} bytes, and {file.size_bytes} are listed")
    elif file.sha256 is not None:
        with open(local, "rb") as data:
            digest = hashlib.file_digest(data, "sha256").hexdigest()
        if digest != file.sha256:
            yield Finding("file_sha256", file.path, f"its sha256 is {digest}, and {file.sha256} is listed")


def the_rows_are_as_many_as_listed(file: Listed, opened: pq.ParquetFile) -> Iterator[Finding]:
    """A file has the number of rows that its record says."""
    rows = opened.metadata.num_rows
    if file.rows not in (None, rows):
        yield Finding("file_rows", file.path, f"it has {rows} rows, and {file.rows} are listed")


def the_footer_names_the_run(run: RunFacts, file: Listed, opened: pq.ParquetFile) -> Iterator[Finding]:
    """A file's footer carries a schema version, and the run, corpus and stage fingerprints of the records."""
    footer = _footer(opened)
    expected = {"run_id": run.run, "corpus": run.corpus, "stages": run.stages}
    wrong = [name for name, value in expected.items() if footer.get(name) != value]
    wrong += [] if footer.get("schema_version") else ["schema_version"]
    if wrong:
        yield Finding("file_footer", file.path, f"its footer and the records of its run differ in {', '.join(wrong)}")


def _footer(opened: pq.ParquetFile) -> dict[str, Any]:
    said = {key.decode(): value.decode() for key, value in (opened.metadata.metadata or {}).items()}
    ours = {key.removeprefix("phonolake."): value for key, value in said.items() if key.startswith("phonolake.")}
    with suppress(ValueError):  # what is no JSON stays text, and differs from every record
        return {**ours, "stages": json.loads(ours.get("stages", ""))}
    return ours


def the_columns_are_those_of_the_table(file: Listed, opened: pq.ParquetFile) -> Iterator[Finding]:
    """A file has its table's columns; one of another schema version may lack or add nullable ones at the end."""
    if file.table not in TABLES:
        yield Finding("file_schema", file.path, f"there is no table {file.table}")
        return
    ours, theirs = list(TABLES[file.table]), list(opened.schema_arrow)
    common = min(len(ours), len(theirs))
    grown = ours[common:] + theirs[common:]
    same_version = _footer(opened).get("schema_version") == SCHEMA_VERSION
    if ours[:common] != theirs[:common] or not all(field.nullable for field in grown) or (grown and same_version):
        odd = [one.name for one in ours if one not in theirs] + [one.name for one in theirs if one not in ours]
        told = ", ".join(dict.fromkeys(odd)) or "their order"
        yield Finding("file_schema", file.path, f"its columns are not those of {file.table}: {told}")


# Of the rows of one file.


def the_rows_are_their_runs_and_in_order(run: RunFacts, file: Listed, batches: Iterable[pa.Table]) -> Iterator[Finding]:
    """Every row carries its run, its corpus and a segment_id of its own, and rows are sorted by SORT_KEYS."""
    foreign = unsorted = misnamed = 0
    above: list[pa.Table] = []  # the last row of the batch before
    for rows in batches:
        foreign += rows_of_another_run(run, rows)
        unsorted += rows_out_of_order(file.table, pa.concat_tables([*above, rows]))
        misnamed += rows_with_a_wrong_segment_id(file.table, rows)
        above = [rows.slice(rows.num_rows - 1)]
    if foreign:
        yield Finding("row_of_another_run", file.path, f"{foreign:,} rows do not have its run_id and corpus_id")
    if unsorted:
        order = ", ".join(SORT_KEYS[file.table])
        yield Finding("row_unsorted", file.path, f"{unsorted:,} rows sort before the row above them, by {order}")
    if misnamed:
        yield Finding("row_misnamed", file.path, f"{misnamed:,} rows have another segment_id than their recording")


def rows_of_another_run(run: RunFacts, rows: pa.Table) -> int:
    """Count the rows whose run_id or corpus_id is not their run's."""
    ours = pc.and_(pc.equal(rows["run_id"], run.run), pc.equal(rows["corpus_id"], run.corpus))
    return len(ours) - (pc.sum(ours).as_py() or 0)


def rows_out_of_order(table: str, rows: pa.Table) -> int:
    """Count the rows that SORT_KEYS would put before the row above them."""
    falls, level = np.zeros(max(len(rows) - 1, 0), bool), np.ones(max(len(rows) - 1, 0), bool)
    for name in SORT_KEYS[table]:
        column = rows[name].combine_chunks()
        column = pc.fill_null(column, LAST) if column.null_count else column
        above, below = column[:-1], column[1:]
        falls |= level & pc.less(below, above).to_numpy(zero_copy_only=False)
        level &= pc.equal(below, above).to_numpy(zero_copy_only=False)
    return int(falls.sum())


def rows_with_a_wrong_segment_id(table: str, rows: pa.Table) -> int:
    """Count the rows whose segment_id is not made of their recording_id and, in `segments`, their segment_index."""
    if "segment_id" not in rows.column_names:
        return 0
    ids = rows["segment_id"]
    if table == "segments":
        right = pc.equal(ids, segment_ids(rows["recording_id"], rows["segment_index"]))
    else:
        of_recording = pc.equal(pc.utf8_slice_codeunits(ids, 0, RECORDING_ID_HEX), rows["recording_id"])
        right = pc.and_(of_recording, pc.match_substring_regex(ids, SEGMENT_ID))
    return int(pc.sum(pc.invert(right)).as_py() or 0)  # a row without one is about the whole recording
