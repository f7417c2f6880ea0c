"""Lakes of sealed runs with a row of every type, made without computing anything."""

from collections.abc import Mapping

import pyarrow as pa
from test_lake import one_row

from pipelines.parquet import to_parquet
from pipelines.store import Store
from schemas import layout, records
from schemas.records import PublishedFile, Seal
from schemas.tables import TABLES

CORPUS = "prompts"
DAY = "2024-05-01"  # that of test_lake.PLANNED


def sealed(store: Store, run: int, tables: Mapping[str, pa.Table] | None = None, corpus: str = CORPUS) -> Seal:
    """Publish and seal a run with these rows; by default a row of every table."""
    name = layout.run_name(run)
    keys = {"run_id": name, "corpus_id": corpus, "recording_id": name, "uri": f"s3://clips/{name}.wav"}
    filled = tables if tables is not None else {table: one_row(table, **_known(table, keys)) for table in TABLES}
    files = [_published(store, table, rows, corpus, name) for table, rows in filled.items()]
    seal = Seal(
        corpus=corpus,
        run=name,
        planned_at=f"{DAY}T23:30:00+00:00",
        sealed_at=f"{DAY}T23:59:00+00:00",
        attempts=1,
        recordings=1,
        ok=1,
        partial=0,
        failed=0,
        audio_seconds=0.5,
        ledger_file=layout.ledger_file(corpus, name),
        files=files,
        stages=[],
        writer="by hand",
    )
    store.put(layout.plan_file(corpus, name), b"{}")
    store.put(layout.seal_file(corpus, name), records.to_json(seal))
    return seal


def _known(table: str, keys: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in keys.items() if name in TABLES[table].names}


def _published(store: Store, table: str, rows: pa.Table, corpus: str, run: str) -> PublishedFile:
    path = layout.data_file(table, corpus, DAY, run, 0)
    data = to_parquet(rows)
    store.put(path, data)
    return PublishedFile(table, path, rows.num_rows, len(data), "")
