"""A small lake written by hand for the report: two corpora, two nights, every table."""

import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.parquet import to_parquet
from pipelines.store import Store
from schemas import layout
from schemas.records import Plan, PublishedFile, Seal, StageRecord, to_json
from schemas.run_record import AttemptRecord, RunRecord
from schemas.run_record import to_json as record_json
from schemas.tables import TABLES
from workers.spectrogram import Spectrogrammer
from workers.spectrogram_settings import SpectrogramSettings

Row = dict[str, Any]

RATE = 16_000
LOG_MEL = SpectrogramSettings("log_mel", n_bins=80)
READING = {"source": {"uri": "/audio/"}, "audio": {"sample_rate": RATE}, "limits": {}}


def tone(amplitude: float, seconds: float = 1.0, hertz: float = 1000.0) -> np.ndarray:
    """A sine at the wire's rate."""
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def log_mel(waveform: np.ndarray) -> Row:
    """A waveform's row of `spectrograms`, keys apart."""
    values = Spectrogrammer(LOG_MEL, RATE).compute(waveform)
    frames, bins = values.shape
    return {"kind": "log_mel", "n_frames": frames, "n_bins": bins, "hop_seconds": 0.01, "values": values.ravel()}


def add_run(
    store: Store, corpus: str, run: str, day: str, recordings: list[Row], failures: list[Row] = (), **more: list[Row]
) -> None:
    """Publish and seal a run: recordings with uri and seconds, one segment each; `more` rows by table name its place.

    A recording's id is its place in the run; rows in `more` say `of` which recording's segment they are.
    """
    at = datetime.datetime.fromisoformat(f"{day}T02:00:00+00:00")
    ids = [f"{corpus}-{run}-{place}" for place in range(len(recordings))]
    keys = [{"recording_id": one, "run_id": run, "corpus_id": corpus, "ingested_at": at} for one in ids]
    segment = {"segment_index": 0, "start_seconds": 0.0}
    facts = {"size_bytes": 10, "status": "ok", "container": "wav", "codec": "pcm_16"}
    tables: dict[str, list[Row]] = {
        "recordings": [key | facts | one for key, one in zip(keys, recordings, strict=True)],
        "segments": [
            key | segment | {"segment_id": f"{key['recording_id']}-00000", "end_seconds": one["decoded_seconds"]}
            for key, one in zip(keys, recordings, strict=True)
        ],
        "failures": [
            keys[0] | {"recording_id": f"broken-{place}", "transient": False, "attempts": 1, "stage": "decode"} | one
            for place, one in enumerate(failures)
        ],
    }
    for table, rows in more.items():
        tables[table] = [
            keys[row["of"]] | {"segment_id": f"{ids[row['of']]}-00000", "model": "toy", "revision": "1"} | row
            for row in rows
        ]
    files = [write(store, table, corpus, day, run, rows) for table, rows in tables.items() if rows]
    seal_run(store, corpus, run, at=at, files=files, recordings=recordings, failed=len(failures))


def write(store: Store, table: str, corpus: str, day: str, run: str, rows: list[Row]) -> PublishedFile:
    """Publish one file of a table; columns that a row does not have are null."""
    path = layout.data_file(table, corpus, day, run, 0)
    named = [{field.name: row.get(field.name) for field in TABLES[table]} for row in rows]
    content = to_parquet(pa.Table.from_pylist(named, TABLES[table]))
    store.put(path, content)
    return PublishedFile(table, path, len(rows), len(content), "")


def seal_run(
    *place: Any, at: datetime.datetime, files: list[PublishedFile], recordings: list[Row], failed: int
) -> None:
    """Write the records of a run that took half a minute on two cores."""
    store, corpus, run = place
    recipe = READING | {"spectrograms": [{"kind": "log_mel", "n_bins": 80}]}
    add_plan(store, corpus, run, at, recipe)
    audio, size = sum(one["decoded_seconds"] for one in recordings), sum(file.size_bytes for file in files)
    counts = (len(recordings) + failed, len(recordings), 0, failed)
    sealed = (at + datetime.timedelta(seconds=30)).isoformat()
    seal = Seal(corpus, run, at.isoformat(), sealed, 1, *counts, audio, "", files, [], "writer")
    store.create(layout.seal_file(corpus, run), to_json(seal))
    attempt = AttemptRecord(1, None, "ended", 20.0, 1, 2.0, stage_seconds={"ingest": 10.0, "tags/toy": 30.0})
    rows = {file.table: file.rows for file in files}
    facts = (at.isoformat(), sealed, False, {}, {}, [], recipe, *counts, 0, audio, 0, size, len(files), rows, {})
    record = RunRecord(corpus, run, *facts, attempts=[attempt], writer="writer")
    store.create(layout.record_file(corpus, run), record_json(record))


def add_plan(store: Store, corpus: str, run: str, at: datetime.datetime, recipe: Row) -> None:
    """Plan a run; its recordings are not listed."""
    name = f"{layout.run_folder(corpus, run)}/plan-x.parquet"
    stages = [StageRecord("segments/whole", "segments", "f", None)]
    plan = Plan(corpus, run, at.isoformat(), "f", recipe, name, 1, 1, [1], [1], stages, "writer")
    store.create(layout.plan_file(corpus, run), to_json(plan))
