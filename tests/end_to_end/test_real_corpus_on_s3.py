"""The whole thing: 568 real English prompts on a real S3 server become a lake, which other tools read."""

import csv
import json
from pathlib import Path

import duckdb
import jiwer
import pandas
import polars
import pyarrow.parquet as pq
import pytest
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from pipelines.errors import PhonolakeError
from pipelines.recipe import Recipe, parse_recipe
from pipelines.run import run
from pipelines.store import Store
from schemas.records import Seal
from schemas.tables import SCHEMA_VERSION, TABLES
from tests.end_to_end.conftest import S3Server
from tests.real_corpus import NoCorpus, english_prompts

LAKE = "s3://lake/speech"


def s3_recipe(**changes: object) -> Recipe:
    content = {
        "corpus": "prompts",
        "source": {"uri": "s3://corpora/prompts/"},
        "lake": {"uri": LAKE},
        "segments": {"by": "speech", "max_seconds": 30},
        "spectrograms": [{"kind": "log_mel", "n_bins": 80}, {"kind": "mfcc", "n_bins": 40}],
        "embeddings": [{"model": "yamnet"}],
        "tags": [{"model": "yamnet", "top_k": 5}],
        "transcripts": [{"model": "whisper-tiny.en", "pack": True}],  # a third of the time
    }
    return parse_recipe({**content, **changes}, "the test's recipe")


@pytest.fixture(scope="module")
def corpus() -> Path:
    try:
        return english_prompts()
    except NoCorpus as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def listed(s3: S3Server, corpus: Path) -> set[str]:
    """The uris of the corpus on S3: every prompt, an empty file, and a text file."""
    filesystem = s3.filesystem()
    for bucket in ("corpora", "lake"):
        filesystem.mkdir(bucket)
    filesystem.put(str(corpus / "en"), "corpora/prompts", recursive=True)
    filesystem.pipe_file("corpora/prompts/broken/empty.wav", b"")
    filesystem.touch("corpora/prompts/broken/")  # what consoles make to stand for a folder
    filesystem.pipe_file("corpora/prompts/broken/notes?#1.wav", b"Field notes, Tuesday: nobody spoke.\n")
    filesystem.invalidate_cache()
    names = {name.rstrip("/") for name in filesystem.find("corpora/prompts")}
    return {f"s3://{name}" for name in names - {"corpora/prompts/broken"}}  # the folder marker is no recording


@pytest.fixture(scope="module")
def seal(cluster: None, listed: set[str]) -> Seal:
    done = run(s3_recipe())
    assert done is not None
    return done


@pytest.fixture(scope="module")
def copy(seal: Seal, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake's data folder, brought here with s3fs alone."""
    folder = tmp_path_factory.mktemp("copy")
    s3.filesystem().get("lake/speech/data", str(folder / "data"), recursive=True)
    return folder / "data"


def table(copy: Path, name: str) -> str:
    return f"read_parquet('{copy}/{name}/**/*.parquet', hive_partitioning = true)"


def test_every_listed_object_is_in_recordings_or_failures_exactly_once(copy: Path, listed: set[str]) -> None:
    whole = "segment_id IS NULL"
    rows = duckdb.sql(
        f"SELECT uri FROM {table(copy, 'recordings')} UNION ALL SELECT uri FROM {table(copy, 'failures')} WHERE {whole}"
    ).fetchall()
    assert len(rows) == len(listed) == 570
    assert {uri for (uri,) in rows} == listed


def test_the_empty_file_and_the_text_file_come_out_as_failures_with_reasons(copy: Path) -> None:
    rows = duckdb.sql(f"SELECT uri, stage, code, message, transient FROM {table(copy, 'failures')} ORDER BY uri")
    empty, notes = rows.fetchall()
    assert empty[:3] == ("s3://corpora/prompts/broken/empty.wav", "decode", "empty")
    assert "0 bytes" in empty[3]
    assert notes[:3] == ("s3://corpora/prompts/broken/notes?#1.wav", "decode", "not_audio")
    assert notes[0] in notes[3]
    assert not empty[4]


def test_every_segment_has_its_rows_in_every_table(copy: Path) -> None:
    segments = duckdb.sql(f"SELECT count(*), count(DISTINCT segment_id) FROM {table(copy, 'segments')}").fetchall()[0]
    assert segments[0] == segments[1] > 500
    for name, times in (("spectrograms", 2), ("embeddings", 1), ("transcripts", 1), ("tags", 5)):
        sql = (
            f"SELECT count(*), count(DISTINCT t.segment_id) FROM {table(copy, name)} t JOIN {table(copy, 'segments')} s"
        )
        assert duckdb.sql(f"{sql} USING (segment_id)").fetchall() == [(times * segments[0], segments[0])]


def test_the_transcripts_of_clips_with_four_words_have_under_12_percent_word_errors(copy: Path, corpus: Path) -> None:
    heard = dict(
        duckdb.sql(
            f"SELECT uri, string_agg(text, ' ' ORDER BY segment_id) FROM {table(copy, 'transcripts')} "
            f"JOIN {table(copy, 'recordings')} USING (recording_id) GROUP BY uri"
        ).fetchall()
    )
    normalise = EnglishTextNormalizer({})
    with open(corpus / "transcripts.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if len(row["text"].split()) >= 4 and "[" not in row["text"]]
    said = [normalise(row["text"]) for row in rows]
    texts = [normalise(heard.get(f"s3://corpora/prompts/{row['path'].removeprefix('en/')}", "")) for row in rows]
    rate = jiwer.wer(said, texts)
    print(f"word error rate {rate:.2%} over {len(rows)} clips")
    assert len(rows) > 200
    assert rate < 0.12


def test_durations_and_segments_agree(copy: Path) -> None:
    sql = (
        "SELECT count(*) FROM {segments} s JOIN {recordings} r USING (recording_id) WHERE s.start_seconds < 0 "
        "OR s.end_seconds > r.decoded_seconds + 1e-3 OR s.end_seconds - s.start_seconds > 30.001 "
        "OR s.speech_ratio NOT BETWEEN 0 AND 1 OR abs(r.declared_seconds - r.decoded_seconds) > 1e-6"
    )
    assert duckdb.sql(
        sql.format(segments=table(copy, "segments"), recordings=table(copy, "recordings"))
    ).fetchall() == [(0,)]


def test_all_files_have_the_declared_schema_and_say_who_wrote_them(copy: Path, seal: Seal) -> None:
    files = sorted(copy.rglob("*.parquet"))
    assert len(files) == len(seal.files)
    for path in files:
        name = path.relative_to(copy).parts[0]
        found = pq.read_schema(path)
        assert found.remove_metadata().equals(TABLES[name].remove_metadata()), name
        assert found.metadata[b"phonolake.schema_version"].decode() == SCHEMA_VERSION
        assert found.metadata[b"phonolake.run_id"].decode() == seal.run
        assert "transcripts/whisper-tiny.en" in json.loads(found.metadata[b"phonolake.stages"])
        assert all(field.metadata[b"description"] for field in found)


def test_files_are_sorted_so_that_readers_skip_row_groups(copy: Path) -> None:
    for path in copy.glob("spectrograms/**/*.parquet"):
        rows = pq.read_table(path, columns=["kind", "segment_id"]).to_pylist()
        keys = [(row["kind"], row["segment_id"]) for row in rows]
        assert keys == sorted(keys)


def test_pandas_polars_and_duckdb_read_the_lake_without_our_code(copy: Path) -> None:
    vectors = pandas.read_parquet(copy / "embeddings")
    assert set(vectors["dim"]) == {1024}
    assert len(vectors["vector"].iloc[0]) == 1024
    mel = polars.read_parquet(f"{copy}/spectrograms/**/*.parquet").filter(polars.col("kind") == "log_mel")
    assert (mel["values"].list.len() == mel["n_frames"] * mel["n_bins"]).all()
    assert mel["n_bins"].unique().to_list() == [80]
    texts = duckdb.sql(f"SELECT text FROM {table(copy, 'transcripts')} WHERE corpus = 'prompts'").fetchall()
    assert len(texts) == len(vectors)


def test_speech_is_tagged_as_speech(copy: Path) -> None:
    best = duckdb.sql(
        f"SELECT label FROM {table(copy, 'tags')} GROUP BY label ORDER BY sum(score) DESC LIMIT 1"
    ).fetchall()
    assert best == [("Speech",)]


def test_a_second_run_has_nothing_to_do_and_writes_nothing(seal: Seal, s3: S3Server) -> None:
    before = s3.filesystem().find("lake", detail=True)
    assert run(s3_recipe()) is None
    after = s3.filesystem().find("lake", detail=True)
    assert {name: entry["ETag"] for name, entry in before.items()} == {
        name: entry["ETag"] for name, entry in after.items()
    }


def test_nothing_but_data_and_records_is_left(seal: Seal) -> None:
    assert {path.split("/")[0] for path in Store(LAKE).list("")} == {"data", "runs"}


def test_an_object_that_changes_after_the_plan_is_a_failure_and_the_next_run_takes_it(
    seal: Seal, s3: S3Server, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filesystem = s3.filesystem()
    for name in ("activated", "added", "agent-pass"):
        filesystem.put(str(corpus / "en" / f"{name}.wav"), f"corpora/late/{name}.wav")
    late = s3_recipe(
        corpus="late",
        source={"uri": "s3://corpora/late/"},
        limits={"max_failed_fraction": 1},
        **dict.fromkeys(("transcripts", "embeddings", "tags", "spectrograms"), ()),
    )
    import pipelines.run

    planned = pipelines.run.write_plan

    def plan_then_change(*arguments: object, **more: object) -> object:
        plan = planned(*arguments, **more)
        filesystem.put(str(corpus / "en" / "calling.wav"), "corpora/late/activated.wav")
        filesystem.rm("corpora/late/added.wav")
        return plan

    monkeypatch.setattr(pipelines.run, "write_plan", plan_then_change)
    first = run(late)
    monkeypatch.undo()
    assert first is not None
    failed = duckdb_failures(s3)
    assert failed == [
        ("s3://corpora/late/activated.wav", "source_changed"),
        ("s3://corpora/late/added.wav", "source_missing"),
    ]
    second = run(late)
    assert second is not None
    assert (second.recordings, second.ok) == (1, 1)


def duckdb_failures(s3: S3Server) -> list[tuple[str, str]]:
    from pipelines.lake import open_lake

    rows = open_lake(Store(LAKE)).sql("SELECT uri, code FROM failures WHERE corpus = 'late' ORDER BY uri")
    return rows.fetchall()


def test_a_lake_that_refuses_to_be_written_is_an_error_that_names_it(cluster: None, listed: set[str]) -> None:
    with pytest.raises(PhonolakeError, match="no-such-bucket"):
        run(s3_recipe(lake={"uri": "s3://no-such-bucket/lake"}))
