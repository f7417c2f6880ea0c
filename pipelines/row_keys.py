"""The keys of a run's rows and records, as tables to be compared in SQL.

They are gathered in DuckDB, which puts them on the scratch disk when they outgrow MEMORY.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.invariants import Finding, Listed, RunFacts
from schemas.records import LEDGER, PLAN, VERDICT
from schemas.tables import SORT_KEYS, TABLES, leading_key

EXAMPLES: Final = 3  # ids that a finding names
BATCH_ROWS: Final = 1 << 17
MEMORY: Final = "1GB"  # of keys, of one run at a time
THREADS: Final = 4  # each wants its part of MEMORY

_RECORD_COLUMNS: Final = {
    "planned": pa.schema([PLAN.field(name) for name in ("recording_id", "stages", "only")]),
    "decided": pa.schema([VERDICT.field(name) for name in ("recording_id", "segment_index", "outcome")]),
    "booked": pa.schema([LEDGER.field(name) for name in ("recording_id", "uri", "outcome", "stages")]),
}
"""What is kept of a run's Parquet records: the plan, the verdict's rows, the ledger."""

_RUN: Final = """
CREATE OR REPLACE TABLE planned (recording_id VARCHAR, stages VARCHAR[], "only" VARCHAR[]);
CREATE OR REPLACE TABLE decided (recording_id VARCHAR, segment_index INTEGER, outcome VARCHAR);
CREATE OR REPLACE TABLE booked (recording_id VARCHAR, uri VARCHAR, outcome VARCHAR, stages VARCHAR[]);
CREATE OR REPLACE TABLE files (file INTEGER, path VARCHAR);
CREATE OR REPLACE TABLE held (file INTEGER, stage VARCHAR, subject VARCHAR, detail VARCHAR, failed BOOLEAN);
"""
"""Each published row is one of `held`: its file; its stage, or `recordings`, or `failures` of a whole recording; the
segment or recording it is about; a tag's label or a recording's status; and whether it is a failure."""

_CORPUS: Final = """
CREATE OR REPLACE TABLE done
    (ledger VARCHAR, uri VARCHAR, recording_id VARCHAR, key VARCHAR, again BOOLEAN, failed BOOLEAN)
"""


class RowKeys:
    """The keys of one run's rows and records at a time, and what the ledgers of one corpus book."""

    def __init__(self, folder: Path) -> None:
        """Take where to keep them."""
        settings: dict[str, Any] = {"memory_limit": MEMORY, "threads": THREADS, "temp_directory": str(folder)}
        self.rows = 0  # whose keys were kept, in all
        self._database = duckdb.connect(config=settings)

    def close(self) -> None:
        """Let go of all."""
        self._database.close()

    def next_corpus(self) -> None:
        """Forget what ledgers book."""
        self._database.execute(_CORPUS)

    def next_run(self) -> None:
        """Forget the run before."""
        self._database.execute(_RUN)

    def keep_record(self, name: str, local: Path) -> None:
        """Keep the rows of a plan, a verdict or a ledger; ValueError, OSError or Arrow's own where it is none."""
        wanted = _RECORD_COLUMNS[name]
        with pq.ParquetFile(local) as file:
            there = pa.schema([field for field in wanted if field.name in file.schema_arrow.names])
            lacking = [field.name for field in wanted if field.name not in there.names and not field.nullable]
            if lacking:
                raise ValueError(f"it has no column {', '.join(lacking)}")
            for batch in file.iter_batches(BATCH_ROWS, columns=there.names):
                batch.validate(full=True)
                self._insert(name, pa.Table.from_batches([batch]).select(there.names).cast(there))

    def keep_file(self, run: RunFacts, file: Listed, opened: pq.ParquetFile) -> Iterator[pa.Table]:
        """Yield the key columns of a published file in batches, and keep what each row is about."""
        wanted = {"run_id", "corpus_id", "segment_id", "label", "stage", "status", *SORT_KEYS[file.table]}
        columns = [name for name in TABLES[file.table].names if name in wanted]
        [number] = self.one("SELECT count(*) FROM files")
        self._database.execute("INSERT INTO files VALUES (?, ?)", [number, file.path])
        for batch in opened.iter_batches(BATCH_ROWS, columns=columns):
            batch.validate(full=True)  # text that is none would reach the database
            rows = pa.Table.from_batches([batch])
            self._insert("held", _keys(run, file.table, rows).append_column("file", pa.repeat(number, len(rows))))
            self.rows += rows.num_rows
            yield rows

    def _insert(self, name: str, rows: pa.Table) -> None:
        self._database.register("arrived", rows)
        self._database.execute(f"INSERT INTO {name} BY NAME SELECT * FROM arrived")
        self._database.unregister("arrived")

    def change(self, sql: str, **params: Any) -> None:
        """Execute a statement."""
        self._database.execute(sql, params)

    def one(self, sql: str) -> Any:
        """Return the first row of a query."""
        return self._database.execute(sql).fetchone()

    def tell(self, code: str, sql: str, **params: Any) -> Iterator[Finding]:
        """Yield a finding for every (object, sentence) among the (object, sentence, id) that a query gives.

        It counts the ids and names a few, however many there are.
        """
        grouped = f"SELECT c0, c1, count(*), min(c2, {EXAMPLES}) FROM ({sql}) t(c0, c1, c2) GROUP BY ALL ORDER BY ALL"
        for where, sentence, count, examples in self._database.execute(grouped, params or None).fetchall():
            more = " ..." if count > len(examples) else ""
            yield Finding(code, where, f"{count:,} {sentence}: {', '.join(examples)}{more}")


def _keys(run: RunFacts, table: str, rows: pa.Table) -> pa.Table:
    """Return the columns of `held`, but for the file."""
    subject, stage = rows["recording_id"], pa.repeat(table, len(rows))
    if table == "segments":
        stage = pa.repeat(run.base or table, len(rows))
    elif table == "failures":
        stage = pc.if_else(pc.is_valid(rows["segment_id"]), rows["stage"], table)
    elif lead := leading_key(table):
        stage = pc.binary_join_element_wise(table, rows[lead], "/")
    if "segment_id" in rows.column_names:
        subject = pc.coalesce(rows["segment_id"], subject)
    details = [rows[name] for name in ("label", "status") if name in rows.column_names]
    detail = details[0] if details else pa.nulls(len(rows), pa.string())
    return pa.table(
        {"stage": stage, "subject": subject, "detail": detail, "failed": pa.repeat(table == "failures", len(rows))}
    )
