"""The demo's clips inside shards on a real S3 server become the same lake as the clips on their own."""

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.lake import open_lake
from pipelines.recipe import Recipe, parse_recipe
from pipelines.recipe_sections import SourceSection
from pipelines.run import plan_delta, run
from pipelines.runs import find_runs
from pipelines.shards import SIDECAR_BYTES
from pipelines.sources import list_source
from pipelines.stages import stages_of
from pipelines.store import Store
from pipelines.verify import verify
from schemas import layout
from schemas.records import Seal
from tests.end_to_end.conftest import S3Server
from tests.end_to_end.test_command_line import DEMO
from workers.loading import NEIGHBOURS_GAP

LAKE = "s3://shards/lake"
SOURCES = {
    "plain": {"uri": "s3://shards/plain/"},
    "tars": {"tar": "s3://shards/tars/"},
    "rows": {"parquet": "s3://shards/rows/*.parquet"},
    "listed": {"manifest": "s3://shards/plain/list.csv"},
}
FACTS = "decoded_seconds, content_sha256, size_bytes, container, codec, sample_rate, channels, status"
with open(DEMO / "manifest.csv", newline="") as file:
    TEXTS = {row["path"]: row["text"] for row in csv.DictReader(file)}
NAMES = sorted(TEXTS)
SHARDS = {"a.tar": NAMES[:14], "b.tar": NAMES[14:24], "c.tar.gz": NAMES[24:]}


def recipe_of(corpus: str, **changes: object) -> Recipe:
    content = {
        "corpus": corpus,
        "source": SOURCES.get(corpus),
        "lake": {"uri": LAKE},
        "segments": {"by": "whole"},
        "spectrograms": [{"kind": "log_mel", "n_bins": 80}],
        "limits": {"max_failed_fraction": 1},
    }
    return parse_recipe({**content, **changes}, "the test's recipe")


def tar_of(names: list[str]) -> bytes:
    """The clips with what is said in them; where there is nothing else, a picture sets an empty one apart."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in names:
            stem = name.rsplit(".", 1)[0]
            note = json.dumps({"text": TEXTS[name], "folder": name.split("/")[0]}).encode()
            members = {f"{stem}.json": note, name: (DEMO / name).read_bytes()}
            if not members[name]:
                members[f"{stem}.png"] = bytes(NEIGHBOURS_GAP + 1)
            for member, content in members.items():
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def parquet_of(names: list[str]) -> bytes:
    """The clips as Hugging Face keeps them."""
    rows = [
        {"audio": {"bytes": (DEMO / name).read_bytes(), "path": name}, "text": TEXTS[name], "n": number}
        for number, name in enumerate(names)
    ]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=9)
    return out.getvalue()


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    """The clips on their own, in two tars and a gzipped one, and in a Parquet file."""
    filesystem = s3.filesystem()
    filesystem.mkdir("shards")
    for name in NAMES:
        filesystem.pipe_file(f"shards/plain/{name}", (DEMO / name).read_bytes())
    for shard, names in SHARDS.items():
        content = tar_of(names)
        filesystem.pipe_file(f"shards/tars/{shard}", gzip.compress(content) if shard.endswith(".gz") else content)
    filesystem.pipe_file("shards/rows/train.parquet", parquet_of(NAMES))
    return "shards"


@pytest.fixture(scope="module")
def seals(cluster: None, bucket: str) -> dict[str, Seal]:
    found = {corpus: run(recipe_of(corpus)) for corpus in ("plain", "tars", "rows")}
    assert all(found.values())
    return {corpus: seal for corpus, seal in found.items() if seal}


@pytest.fixture(scope="module")
def lake(seals: dict[str, Seal]):
    return open_lake(Store(LAKE))


def uris(corpus: str) -> dict[str, str]:
    """Where each clip lies in a corpus: uri -> name."""
    if corpus == "plain":
        return {f"s3://shards/plain/{name}": name for name in NAMES}
    if corpus == "rows":
        return {f"s3://shards/rows/train.parquet#{number}": name for number, name in enumerate(NAMES)}
    return {f"s3://shards/tars/{shard}#{name}": name for shard, names in SHARDS.items() for name in names}


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ({"tar": "s3://shards/tars/a.tar"}, 14),
        ({"tar": "s3://shards/tars/c.tar.gz"}, len(NAMES) - 24),
        ({"parquet": "s3://shards/rows/train.parquet"}, len(NAMES)),
        ({"tar": "s3://shards/tars/*.tar"}, 24),
        ({"tar": "s3://shards/tars"}, len(NAMES)),
    ],
)
def test_a_source_is_one_shard_a_glob_or_a_prefix(bucket, source, rows) -> None:
    listing = list_source(SourceSection(**source))
    assert listing.num_rows == rows
    assert listing["problem"].null_count == rows


@pytest.mark.parametrize("corpus", ["tars", "rows"])
def test_every_member_is_in_recordings_or_failures_exactly_once(lake, corpus) -> None:
    rows = lake.sql(
        f"SELECT uri FROM recordings WHERE corpus = '{corpus}' UNION ALL "
        f"SELECT uri FROM failures WHERE corpus = '{corpus}' AND segment_id IS NULL"
    ).fetchall()
    assert len(rows) == len(NAMES)
    assert {uri for (uri,) in rows} == uris(corpus).keys()


@pytest.mark.parametrize("corpus", ["tars", "rows"])
def test_what_is_decoded_is_what_the_clips_give_on_their_own(lake, corpus) -> None:
    found = {
        one: {
            uris(one)[uri]: facts
            for uri, *facts in lake.sql(f"SELECT uri, {FACTS} FROM recordings WHERE corpus = '{one}'").fetchall()
        }
        for one in ("plain", corpus)
    }
    assert len(found["plain"]) == len(NAMES) - 2
    assert found[corpus] == found["plain"]


@pytest.mark.parametrize("corpus", ["tars", "rows"])
def test_the_spectrograms_are_those_of_the_clips_on_their_own(lake, corpus) -> None:
    found = {}
    for one in ("plain", corpus):
        rows = lake.sql(
            f"SELECT uri, n_frames, list_sum(values) FROM spectrograms JOIN recordings USING (recording_id) "
            f"WHERE recordings.corpus = '{one}'"
        ).fetchall()
        found[one] = {uris(one)[uri]: facts for uri, *facts in rows}
    assert len(found["plain"]) > 20
    assert found[corpus] == found["plain"]


@pytest.mark.parametrize("corpus", ["tars", "rows"])
def test_what_fails_fails_for_the_same_reason_as_on_its_own(lake, corpus) -> None:
    found = {
        one: {
            uris(one)[uri]: code
            for uri, code in lake.sql(f"SELECT uri, code FROM failures WHERE corpus = '{one}'").fetchall()
        }
        for one in ("plain", corpus)
    }
    assert found[corpus] == found["plain"] == {"broken/empty.wav": "empty", "broken/notes.wav": "not_audio"}


def test_what_sidecars_and_columns_say_is_metadata(lake) -> None:
    rows = lake.sql("SELECT uri, metadata FROM recordings WHERE corpus = 'tars'").fetchall()
    for uri, metadata in rows:
        name = uris("tars")[uri]
        assert metadata == {"text": TEXTS[name], "folder": name.split("/")[0]}
    rows = lake.sql("SELECT uri, metadata FROM recordings WHERE corpus = 'rows'").fetchall()
    for uri, metadata in rows:
        name = uris("rows")[uri]
        assert metadata == {"text": TEXTS[name], "n": str(NAMES.index(name)), "path": name}
    assert len(rows) == len(NAMES) - 2


def test_a_second_run_has_nothing_to_do_and_writes_nothing(seals, s3) -> None:
    def objects() -> dict[str, str]:
        return {name: entry["ETag"] for name, entry in s3.filesystem().find("shards/lake", detail=True).items()}

    before = objects()
    assert len(Store(LAKE).list(layout.shards_folder("tars"))) == 3
    for corpus in seals:
        assert run(recipe_of(corpus)) is None
    assert objects() == before


def test_verify_finds_nothing(seals) -> None:
    found = verify(Store(LAKE))
    assert (found.findings, found.notes) == ([], [])
    assert found.runs >= 3


def test_a_shard_that_is_replaced_is_planned_as_changed_and_the_others_stay(seals, s3) -> None:
    filesystem, store, recipe = s3.filesystem(), Store(LAKE), recipe_of("tars")
    swapped = [NAMES[14], *NAMES[3:5]]  # one name stays, two are new there
    filesystem.pipe_file("shards/tars/b.tar", tar_of(swapped))
    delta = plan_delta(recipe, store, find_runs(store, "tars"), stages_of(recipe))
    expected = [f"s3://shards/tars/b.tar#{name}" for name in swapped]
    assert delta.recordings["uri"].to_pylist() == expected
    counts = (delta.listed, delta.new, delta.changed, delta.gone)
    assert counts == (len(NAMES) - 10 + 3, 2, 1, 9)
    seal = run(recipe)
    assert seal is not None
    assert (seal.recordings, seal.ok) == (3, 3)
    lake = open_lake(store)
    current = lake.sql(
        "SELECT uri, run_id, count(*) OVER (PARTITION BY uri) FROM current_recordings "
        "WHERE corpus = 'tars' AND uri LIKE '%b.tar#%'"
    ).fetchall()
    assert {(uri, run_id, times) for uri, run_id, times in current if run_id == seal.run} == {
        (uri, seal.run, 1) for uri in expected
    }
    assert verify(store).findings == []
    assert run(recipe) is None


def test_a_shard_that_is_replaced_after_the_plan_fails_member_by_member_and_the_next_run_takes_it(
    cluster, s3, bucket, monkeypatch
) -> None:
    filesystem = s3.filesystem()
    clips = ["en/invalid.wav", "en/vm-goodbye.wav", "en/tt-weasels.wav"]
    for shard in ("a.tar", "b.tar.gz"):
        filesystem.pipe_file(f"shards/late/{shard}", as_named(shard, tar_of(clips[:2])))
    import pipelines.run

    planned = pipelines.run.write_plan

    def plan_then_change(*arguments: object, **more: object) -> object:
        plan = planned(*arguments, **more)
        for shard in ("a.tar", "b.tar.gz"):
            filesystem.pipe_file(f"shards/late/{shard}", as_named(shard, tar_of(clips[1:])))
        return plan

    late = recipe_of("late", source={"tar": "s3://shards/late/"})
    monkeypatch.setattr(pipelines.run, "write_plan", plan_then_change)
    first = run(late)
    monkeypatch.undo()
    assert first is not None
    rows = open_lake(Store(LAKE)).sql("SELECT code, count(*) FROM failures WHERE corpus = 'late' GROUP BY code")
    assert rows.fetchall() == [("source_changed", 4)]
    second = run(late)
    assert second is not None
    assert (second.recordings, second.ok) == (4, 4)


def as_named(shard: str, content: bytes) -> bytes:
    return gzip.compress(content) if shard.endswith(".gz") else content


def test_members_without_bytes_fail_as_empty_wherever_they_lie(cluster, s3, bucket) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, size in (("first.wav", 0), ("x.png", SIDECAR_BYTES), ("middle.wav", 0), ("y.png", 99_999)):
            entry = tarfile.TarInfo(name)
            entry.size = size
            tar.addfile(entry, io.BytesIO(bytes(size)))
        tar.addfile(tarfile.TarInfo("one.wav"))
        tar.addfile(tarfile.TarInfo("other.wav"))
    s3.filesystem().pipe_file("shards/empty/a.tar", out.getvalue())
    assert run(recipe_of("empty", source={"tar": "s3://shards/empty/"})) is not None
    rows = open_lake(Store(LAKE)).sql("SELECT uri, code FROM failures WHERE corpus = 'empty' ORDER BY uri").fetchall()
    assert rows == [(f"s3://shards/empty/a.tar#{name}.wav", "empty") for name in ("first", "middle", "one", "other")]


def test_damage_and_refused_members_are_failures_beside_what_is_read(cluster, s3, bucket) -> None:
    whole = tar_of(["en/invalid.wav", "en/vm-goodbye.wav"])
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("../out.wav", "a.wav"):
            entry = tarfile.TarInfo(name)
            entry.size = (DEMO / "en/vm-goodbye.wav").stat().st_size
            tar.addfile(entry, io.BytesIO((DEMO / "en/vm-goodbye.wav").read_bytes()))
        link = tarfile.TarInfo("link.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hosts"
        tar.addfile(link)
    filesystem = s3.filesystem()
    filesystem.pipe_file("shards/damaged/cut.tar", whole[: whole.index(b"en/vm-goodbye.json") + 10])
    filesystem.pipe_file("shards/damaged/refused.tar", out.getvalue())
    seal = run(recipe_of("damaged", source={"tar": "s3://shards/damaged/"}))
    assert seal is not None
    lake, where = open_lake(Store(LAKE)), "s3://shards/damaged"
    assert lake.sql("SELECT uri, code FROM failures WHERE corpus = 'damaged' ORDER BY uri").fetchall() == [
        (f"{where}/cut.tar#", "shard_damaged"),
        (f"{where}/refused.tar#../out.wav", "source_refused"),
        (f"{where}/refused.tar#link.wav", "source_refused"),
    ]
    assert lake.sql("SELECT uri FROM recordings WHERE corpus = 'damaged' ORDER BY uri").fetchall() == [
        (f"{where}/cut.tar#en/invalid.wav",),
        (f"{where}/refused.tar#a.wav",),
    ]
    assert run(recipe_of("damaged", source={"tar": "s3://shards/damaged/"})) is None
    assert verify(Store(LAKE)).findings == []


def test_what_a_manifest_on_s3_may_not_name_fails_and_the_rest_is_read(cluster, s3, bucket, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes((DEMO / "en/invalid.wav").read_bytes())
    refused = [str(secret), f"file://{tmp_path}/another.wav", "../tars/a.tar", "http://127.0.0.1:9/a.wav"]
    entries = ["en/invalid.wav", *refused, "s3://shards/plain/en/vm-goodbye.wav"]
    rows = [f"{entry},take {number}" for number, entry in enumerate(entries)]
    s3.filesystem().pipe_file("shards/plain/list.csv", "\n".join(["path,take", *rows, ""]).encode())
    assert run(recipe_of("listed")) is not None
    lake = open_lake(Store(LAKE))
    failures = lake.sql(
        "SELECT uri, code, transient, message FROM failures WHERE corpus = 'listed' ORDER BY uri"
    ).fetchall()
    assert sorted(row[0] for row in failures) == sorted(
        [str(secret), f"file://{tmp_path}/another.wav", "s3://shards/tars/a.tar", "http://127.0.0.1:9/a.wav"]
    )
    assert {row[1:3] for row in failures} == {("source_refused", False)}
    assert all("source.allow" in row[3] for row in failures)
    assert lake.sql("SELECT uri, metadata FROM recordings WHERE corpus = 'listed' ORDER BY uri").fetchall() == [
        ("s3://shards/plain/en/invalid.wav", {"take": "take 0"}),
        ("s3://shards/plain/en/vm-goodbye.wav", {"take": "take 5"}),
    ]
    assert run(recipe_of("listed")) is None
    assert verify(Store(LAKE)).findings == []
