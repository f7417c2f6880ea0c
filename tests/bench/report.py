"""How long a report takes on a big lake: made here of rows that cost nothing, asked as any lake is.

python -m tests.bench.report [--folder FOLDER] [--segments 1000000] [--nights 60]

In a FOLDER the lake is written once and kept. Tags come ten a segment; spectrograms are short, since only a few hundred
are read.
"""

import argparse
import datetime
import resource
import tempfile
import time
from pathlib import Path

import duckdb

from pipelines.page.page import make_report, render
from pipelines.plan import find_delta, write_plan
from pipelines.recipe import parse_recipe
from pipelines.runs import Runs
from pipelines.stages import Stage
from pipelines.store import Store
from schemas import layout
from schemas.records import PublishedFile, Seal, to_json
from schemas.run_record import AttemptRecord, RunRecord
from schemas.run_record import to_json as record_json
from tests.pipelines.hand_made import listing

CORPORA = {"podcasts": 0.6, "calls": 0.3, "shorts": 0.1}
SEGMENTS_A_RECORDING = 8
FIRST_NIGHT = datetime.date(2026, 3, 1)

_SEGMENTS = """
SELECT md5('{corpus}{run}' || (i // {each})) AS recording_id, '{run}' AS run_id, '{corpus}' AS corpus_id,
    TIMESTAMPTZ '{day} 02:00:00+00' AS ingested_at,
    md5('{corpus}{run}' || (i // {each})) || '-' || lpad((i % {each})::VARCHAR, 5, '0') AS segment_id,
    (i % {each})::INTEGER AS segment_index, (i % {each}) * 12.0::DOUBLE AS start_seconds,
    (i % {each}) * 12.0::DOUBLE + 1 + 11 * (hash(i) % 1000) / 1000 AS end_seconds, 0.8::FLOAT AS speech_ratio,
    NULL::INTEGER AS channel FROM range({count}) t(i) ORDER BY recording_id, segment_index
"""
_TABLES = {
    "recordings": """SELECT recording_id, any_value(run_id) AS run_id, any_value(corpus_id) AS corpus_id,
        any_value(ingested_at) AS ingested_at, 's3://audio/{corpus}/' || recording_id || '.mp3' AS uri, '1' AS etag,
        1000000::BIGINT AS size_bytes, 'mp3' AS container, 'mp3' AS codec, 44100 AS sample_rate, 2 AS channels,
        max(end_seconds) AS declared_seconds, max(end_seconds) * (0.1 + hash(recording_id) % 40) AS decoded_seconds,
        max(end_seconds) * 0.8 AS speech_seconds, recording_id AS content_sha256,
        CASE WHEN hash(recording_id) % 200 = 0 THEN 'partial' ELSE 'ok' END AS status, 'x' AS decoder,
        NULL::MAP(VARCHAR, VARCHAR) AS metadata FROM s GROUP BY recording_id ORDER BY recording_id""",
    "segments": "SELECT * FROM s",
    "transcripts": """SELECT recording_id, run_id, corpus_id, ingested_at, segment_id, 'whisper-base' AS model,
        'abc' AS revision, ['en', 'en', 'en', 'es', 'de', 'fr', 'hi']
        [(1 + hash(recording_id) % 7)::INTEGER] AS language,
        0.9::FLOAT AS language_probability, 'And then they said it would rain until Thursday.' AS text,
        NULL::STRUCT(word VARCHAR, "start" DOUBLE, "end" DOUBLE, probability FLOAT)[] AS words,
        -0.3::FLOAT AS avg_logprob, 1.3::FLOAT AS compression_ratio, 0.1::FLOAT AS no_speech_probability,
        0::FLOAT AS temperature, CASE WHEN hash(segment_id) % 50 = 0 THEN ['low_confidence'] ELSE []::VARCHAR[] END
        AS flags FROM s ORDER BY recording_id, segment_id""",
    "tags": """SELECT recording_id, run_id, corpus_id, ingested_at, segment_id, 'yamnet' AS model, 'abc' AS revision,
        ['Speech', 'Music', 'Laughter', 'Applause', 'Rain', 'Dog', 'Car', 'Silence', 'Guitar', 'Typing']
        [(1 + k)::INTEGER] AS label,
        (1 - (hash(segment_id, k) % 1000) / 1000.0 * (k + 1) / 3)::FLOAT AS score
        FROM s, range(10) u(k) ORDER BY recording_id, segment_id""",
    "spectrograms": """SELECT recording_id, run_id, corpus_id, ingested_at, segment_id, 'log_mel' AS kind,
        25 AS n_frames, 80 AS n_bins, 0.01::DOUBLE AS hop_seconds,
        [(-12 + 10 * sin(hash(segment_id) % 100 / 30.0 + j % 80 / 9.0 + j // 400))::FLOAT for j in range(2000)]
        AS values
        FROM s LIMIT 400""",
    "failures": """SELECT recording_id, any_value(run_id) AS run_id, any_value(corpus_id) AS corpus_id,
        any_value(ingested_at) AS ingested_at, NULL::VARCHAR AS segment_id,
        's3://audio/{corpus}/broken-' || recording_id || '.mp3' AS uri, 'decode' AS stage,
        ['not_audio', 'empty', 'unreadable', 'decoder_timeout'][(1 + hash(recording_id) % 4)::INTEGER] AS code,
        's3://audio/{corpus}/broken-' || recording_id || '.mp3: starts like no known audio' AS message,
        hash(recording_id) % 4 = 3 AS transient, 1 AS attempts
        FROM (SELECT md5(recording_id) AS recording_id, run_id, corpus_id, ingested_at FROM s)
        WHERE hash(recording_id) % 100 = 0 GROUP BY recording_id""",
}


def write_lake(store: Store, segments: int, nights: int) -> None:
    """Write a lake of so many segments over so many nights."""
    for corpus, part in CORPORA.items():
        shapes = [1 + 0.6 * ((night * 7919) % 13 - 6) / 6 for night in range(nights)]
        for night, shape in enumerate(shapes):
            day = FIRST_NIGHT + datetime.timedelta(night)
            write_night(store, corpus, night + 1, day, max(8, int(segments * part * shape / sum(shapes))))


def write_night(store: Store, corpus: str, number: int, day: datetime.date, count: int) -> None:
    """Write one sealed run: its files, plan, seal and record."""
    run, connection, files = layout.run_name(number), duckdb.connect(), []
    names = {"corpus": corpus, "run": run, "day": day, "each": SEGMENTS_A_RECORDING, "count": count}
    connection.execute(f"CREATE TABLE s AS {_SEGMENTS.format(**names)}")
    for table, sql in _TABLES.items():
        path = layout.data_file(table, corpus, str(day), run, 0)
        Path(store.full(path)).parent.mkdir(parents=True, exist_ok=True)
        connection.execute(f"COPY ({sql.format(**names)}) TO '{store.full(path)}' (FORMAT parquet, COMPRESSION zstd)")
        [(rows,)] = connection.execute(f"SELECT count(*) FROM read_parquet('{store.full(path)}')").fetchall()
        files.append(PublishedFile(table, path, rows, Path(store.full(path)).stat().st_size, ""))
    write_records(store, corpus, run, day, files)


def write_records(store: Store, corpus: str, run: str, day: datetime.date, files: list[PublishedFile]) -> None:
    recipe = parse_recipe(
        {
            "corpus": corpus,
            "source": {"uri": "/audio/"},
            "lake": {"uri": store.uri},
            "spectrograms": [{"kind": "log_mel", "n_bins": 80}],
        },
        "bench",
    )
    rows = {file.table: file.rows for file in files}
    planned, seconds = f"{day}T02:00:00+00:00", 1800 + rows["recordings"] % 1800
    sealed = f"{day}T{2 + seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}+00:00"
    stages = [Stage("segments", "speech", {}, None, "f")]
    runs = Runs(corpus, [layout.run_name(n) for n in range(1, int(run))], frozenset())
    if run == layout.run_name(1):
        empty = find_delta(store, Runs(corpus, [], frozenset()), corpus, listing("/audio/x.wav"), stages)
        write_plan(store, recipe, runs, empty, stages)
    content = store.read(layout.plan_file(corpus, layout.run_name(1)))
    if run != layout.run_name(1):
        store.create(layout.plan_file(corpus, run), content)
    audio = rows["recordings"] * 1900.0
    counts = (rows["recordings"] + rows["failures"], rows["recordings"] - 3, 3, rows["failures"])
    seal = Seal(corpus, run, planned, sealed, 1, *counts, audio, "", files, [], "bench")
    store.create(layout.seal_file(corpus, run), to_json(seal))
    work = {
        "ingest": 0.2,
        "transcripts/whisper-base": 0.55,
        "tags/yamnet": 0.15,
        "spectrograms/log_mel": 0.06,
        "stage": 0.04,
    }
    attempt = AttemptRecord(
        1, planned, "ended", seconds * 0.97, 4, 64.0, 4.0, {name: share * seconds * 50 for name, share in work.items()}
    )
    size = sum(file.size_bytes for file in files)
    facts = (planned, sealed, False, {}, {}, [], {}, *counts, 0, audio, 0, size, len(files), rows, {}, [attempt])
    record = RunRecord(corpus, run, *facts, "bench")
    store.create(layout.record_file(corpus, run), record_json(record))


def main() -> None:
    """Write the lake if it is not there, and make its report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder")
    parser.add_argument("--segments", type=int, default=1_000_000)
    parser.add_argument("--nights", type=int, default=60)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="phonolake-bench-") as temporary:
        measure(asked.folder or temporary, asked)


def measure(folder: str, asked: argparse.Namespace) -> None:
    """Make the report of a lake in a folder, and print what it took."""
    store = Store(folder)
    if not store.list(layout.RUNS):
        write_lake(store, asked.segments, asked.nights)
    started = time.monotonic()
    report = make_report(store, folder, None, most_clips=6, sound=True)
    page = render(report)
    seconds, memory = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    [totals] = report.answers["totals"].rows
    print(
        f"{totals['segments']:,} segments: {seconds:.1f} s, {memory:.1f} GB at most, a page of {len(page) / 1e6:.1f} MB"
    )
    if asked.out:
        asked.out.write_text(page)


if __name__ == "__main__":
    main()
