"""What a manifest may not name: it is refused, planned as a failure, and not a byte of it is read."""

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_made import STAGES
from pydantic import ValidationError

import pipelines.manifest_lookups
from pipelines.errors import RecipeError
from pipelines.manifest import ENTRIES, read_manifest
from pipelines.plan import find_delta
from pipelines.planned_recordings import recording_of
from pipelines.recipe_sections import SourceSection
from pipelines.runs import Runs
from pipelines.sources import LISTING, list_source
from pipelines.store import Store
from workers.loading import SourceSettings, load_ahead
from workers.objects import Fetched

SECRET = b"what nobody may read"
NO_RUNS = Runs("c", [], frozenset())
ALLOWABLE = ("file", "http", "outside")


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def csv(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows), ""]).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


WRITERS = {"csv": csv, "jsonl": jsonl, "parquet": parquet}


def put(uri: str, content: bytes) -> str:
    with fsspec.open(uri, "wb", auto_mkdir=True) as file:
        file.write(content)
    return uri


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path) -> Iterator[str]:
    """Where a manifest lies: on the disk, or in another store; a recording and a secret lie beside and above."""
    root = str(tmp_path / "corpora") if request.param == "local" else "memory://corpora"
    put(f"{root}/secret.wav", SECRET)
    put(f"{root}/lists/a.wav", b"inside")
    put(f"{root}/lists/deep/a.wav", b"deep inside")
    yield f"{root}/lists"
    if request.param == "remote":
        fsspec.filesystem("memory").rm("/corpora", recursive=True)


@pytest.fixture
def remote() -> Iterator[str]:
    put("memory://corpora/lists/a.wav", b"inside")
    yield "memory://corpora/lists"
    fsspec.filesystem("memory").rm("/corpora", recursive=True)


@pytest.fixture
def secret(tmp_path) -> Path:
    path = tmp_path / "secret.wav"
    path.write_bytes(SECRET)
    return path


def refusals(manifest: str, allow: tuple[str, ...] = ()) -> list[str | None]:
    """Why each entry is refused, None where it is not."""
    table = read_manifest(manifest, {}, allow)
    assert table.schema == ENTRIES
    problems = table["problem"].to_pylist()
    assert {problem["code"] for problem in problems if problem} <= {"source_refused"}
    return [problem and problem["message"] for problem in problems]


def naming(folder: str, *entries: str) -> str:
    return put(f"{folder}/list.jsonl", jsonl([{"uri": entry} for entry in entries]))


def read_all(manifest: str, tmp_path: Path, allow: tuple[str, ...] = ()) -> dict[str, bytes | str]:
    """List, plan and read a manifest: each recording's content, or the code of why there is none."""
    table = list_source(SourceSection(manifest=manifest, allow=allow))
    assert table.schema == LISTING
    planned = find_delta(Store(str(tmp_path / "lake")), NO_RUNS, "c", table, STAGES).recordings.to_pylist()
    assert len(planned) == table.num_rows
    read = load_ahead(map(recording_of, planned), SourceSettings((), 1 << 20))
    return {
        recording.source.uri: outcome.content if isinstance(outcome, Fetched) else outcome.code
        for recording, outcome in read
    }


# Above its folder


@pytest.mark.parametrize(
    "entry",
    ["../secret.wav", "./../secret.wav", "deep/../../secret.wav", "..", "../../../../../etc/hosts", "../x/.."],
)
def test_an_entry_that_leads_above_the_manifests_folder_is_refused_unless_outside_is_allowed(folder, entry):
    manifest = naming(folder, "a.wav", entry)
    inside, outside = refusals(manifest)
    assert inside is None
    assert manifest in outside
    assert "source.allow" in outside
    assert "`outside`" in outside
    assert refusals(manifest, ("outside",)) == [None, None]
    assert refusals(manifest, ("file", "http")) == [None, outside]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("column", ["uri", "path", "audio_filepath"])
def test_it_is_refused_in_every_kind_of_manifest_and_under_every_name_of_the_column(folder, kind, column):
    rows = [{column: "../secret.wav", "n": "1"}, {column: "a.wav", "n": "2"}]
    for ending, content in ((kind, WRITERS[kind](rows)), (f"{kind}.gz", gzip.compress(WRITERS[kind](rows)))):
        above, inside = refusals(put(f"{folder}/list.{ending}", content))
        assert above is not None
        assert inside is None


@pytest.mark.parametrize("entry", ["deep/a.wav", "./deep/./a.wav", "deep/../a.wav", "deep/../deep/a.wav", "a..wav"])
def test_an_entry_that_stays_within_the_folder_is_read(folder, entry):
    assert refusals(naming(folder, entry)) == [None]


@pytest.mark.parametrize("entry", ["..a.wav", "..data/a.wav", "...wav", "..deep/../a.wav"])
def test_a_name_that_only_begins_with_two_dots_leads_nowhere(folder, entry):
    assert refusals(naming(folder, entry)) == [None]


def test_one_that_leads_out_and_back_in_does_not_hide_the_recording_it_comes_to(folder, tmp_path):
    found = read_all(naming(folder, "../lists/a.wav", "a.wav"), tmp_path)
    assert found == {f"{folder}/a.wav": b"inside"}


@pytest.mark.parametrize("manifest", ["list.csv", "./list.csv", "../lists/list.csv", "deep/../list.csv"])
def test_a_manifest_that_is_named_from_here_is_held_to_its_own_folder_too(tmp_path, monkeypatch, manifest):
    (tmp_path / "lists" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "lists")
    Path("list.csv").write_bytes(csv([{"uri": "a.wav"}, {"uri": "../b.wav"}, {"uri": "deep/c.wav"}]))
    assert [reason is None for reason in refusals(manifest)] == [True, False, True]


def test_nothing_of_what_is_refused_is_asked_for_or_read_and_the_others_are(folder, tmp_path, monkeypatch):
    asked, look_up = [], pipelines.manifest_lookups._look_up

    def noted(uri: str, options: Any) -> Any:
        asked.append(uri)
        return look_up(uri, options)

    monkeypatch.setattr(pipelines.manifest_lookups, "_look_up", noted)
    manifest = naming(folder, "../secret.wav", "a.wav", "deep/a.wav")
    above = f"{folder.removesuffix('/lists')}/secret.wav"
    assert read_all(manifest, tmp_path) == {
        above: "source_refused",
        f"{folder}/a.wav": b"inside",
        f"{folder}/deep/a.wav": b"deep inside",
    }
    assert sorted(asked) == [f"{folder}/a.wav", f"{folder}/deep/a.wav"]
    assert read_all(manifest, tmp_path, ("outside",))[above] == SECRET
    assert above in asked


def test_a_refused_entry_is_listed_with_its_metadata_and_its_reason(folder):
    manifest = put(f"{folder}/list.csv", csv([{"uri": "../secret.wav", "take": "1"}, {"uri": "a.wav", "take": "2"}]))
    refused, read = list_source(SourceSection(manifest=manifest)).to_pylist()
    assert refused["metadata"] == [("take", "1")]
    assert (refused["etag"], refused["size_bytes"], refused["modified_ns"], refused["place"]) == (None, 0, None, None)
    assert refused["uri"] in refused["problem"]["message"]
    assert (read["metadata"], read["problem"], read["size_bytes"]) == ([("take", "2")], None, 6)


def test_refusals_in_a_manifest_of_many_batches_stay_with_their_rows(folder, monkeypatch):
    monkeypatch.setattr("pipelines.manifest.BATCH_ROWS", 7)
    monkeypatch.setattr("pipelines.manifest_lookups.BATCH_ROWS", 5)
    entries = [f"../{number}.wav" if number % 3 == 0 else f"{number}.wav" for number in range(40)]
    table = list_source(SourceSection(manifest=naming(folder, *entries)))
    assert [Path(uri).name for uri in table["uri"].to_pylist()] == [f"{number}.wav" for number in range(40)]
    assert table["problem"].is_valid().to_pylist() == [number % 3 == 0 for number in range(40)]


# Local files


@pytest.mark.parametrize(
    "shape",
    [
        *("{}", "file://{}", "/..{}", "/{}", "file:///{}"),
        *("local://{}", "simplecache::file://{}", "filecache::local://{}", "dir://secret.wav::file://{folder}"),
    ],
)
def test_a_remote_manifest_may_not_name_a_local_file_in_any_spelling(remote, secret, tmp_path, shape):
    entry = shape.format(secret, folder=secret.parent)
    manifest = naming(remote, "a.wav", entry)
    found = read_all(manifest, tmp_path)
    assert found[f"{remote}/a.wav"] == b"inside"
    assert found[entry] == "source_refused"
    for allow in (("http",), ("outside",), ("http", "outside")):
        assert read_all(manifest, tmp_path, allow)[entry] == "source_refused"


@pytest.mark.parametrize("shape", ["{}", "file://{}"])
def test_a_remote_manifest_may_name_local_files_where_file_is_allowed(remote, secret, tmp_path, shape):
    entry = shape.format(secret)
    manifest = naming(remote, entry)
    [reason] = refusals(manifest)
    assert all(part in reason for part in (entry, manifest, "`file`", "source.allow"))
    assert read_all(manifest, tmp_path, ("file",)) == {entry: SECRET}


@pytest.mark.parametrize("shape", ["{}", "file://{}"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_local_manifest_may_name_any_local_file_by_its_whole_path(tmp_path, secret, shape, scheme):
    manifest = naming(str(tmp_path / "lists"), shape.format(secret))
    assert read_all(f"{scheme}{manifest}", tmp_path) == {shape.format(secret): SECRET}


def test_a_remote_manifest_may_name_objects_of_stores_by_their_whole_uri(remote):
    entries = ["memory://elsewhere/a.wav", "s3://bucket/a/../b.wav", "gs://bucket/a.wav", "s3://bucket/a::file://b.wav"]
    assert refusals(naming(remote, *entries)) == [None] * 4


# The web


@pytest.mark.parametrize("entry", ["http://127.0.0.1:9/a.wav", "https://127.0.0.1:9/a.wav?x=1"])
def test_a_manifest_may_not_name_web_addresses_unless_http_is_allowed(folder, entry):
    manifest = naming(folder, entry, "a.wav")
    reason, inside = refusals(manifest)
    assert inside is None
    assert all(part in reason for part in (entry, manifest, "`http`", "source.allow"))
    assert refusals(manifest, ("http",)) == [None, None]
    assert refusals(manifest, ("file", "outside")) == [reason, None]


@pytest.mark.parametrize("entry", ["simplecache::http://127.0.0.1:9/a.wav", "filecache::https://127.0.0.1:9/a.wav"])
def test_a_web_address_inside_a_chain_is_one_too(folder, entry):
    [reason] = refusals(naming(folder, entry))
    assert reason is not None


def test_no_web_address_is_asked_for_that_is_refused(folder, tmp_path, monkeypatch):
    def look_up(uri: str, options: Any) -> Any:
        raise AssertionError(f"asked for {uri}")

    monkeypatch.setattr(pipelines.manifest_lookups, "_look_up", look_up)
    entry = "http://169.254.169.254/latest/meta-data/"
    assert read_all(naming(folder, entry), tmp_path) == {entry: "source_refused"}


# What may be allowed


@pytest.mark.parametrize("allowed", ALLOWABLE)
def test_each_word_of_allow_lifts_only_what_it_names(remote, secret, allowed):
    entries = {"file": str(secret), "http": "http://127.0.0.1:9/a.wav", "outside": "../b.wav"}
    manifest = naming(remote, *entries.values())
    found = dict(zip(entries, refusals(manifest, (allowed,)), strict=True))
    assert [name for name, reason in found.items() if reason is None] == [allowed]
    assert refusals(manifest, ALLOWABLE) == [None] * 3
    assert None not in refusals(manifest)


@pytest.mark.parametrize("section", [{"uri": "/x"}, {"tar": "/x"}, {"parquet": "/x"}])
def test_allow_belongs_to_a_manifest(section):
    with pytest.raises(ValidationError, match="allow belongs to a manifest"):
        SourceSection(**section, allow=("file",))


def test_allow_takes_only_the_words_it_knows():
    with pytest.raises(ValidationError, match="allow"):
        SourceSection(manifest="/x.csv", allow=("everything",))


# Manifests of lhotse and NeMo


def lhotse(uri: str | None, number: int = 1, **more: Any) -> dict[str, Any]:
    """A recording as lhotse 1.x writes it."""
    sources = [] if uri is None else [{"type": "file", "channels": [0], "source": uri}]
    facts = {"sampling_rate": 16000, "num_samples": 16000, "duration": 1.0, "channel_ids": [0]}
    return {"id": f"rec-{number}", "sources": sources, **facts, **more}


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_a_lhotse_manifest_names_its_recordings_by_their_first_source(folder, tmp_path, ending):
    rows = [lhotse("a.wav"), lhotse("deep/a.wav", 2)]
    rows[1]["sources"].append({"type": "file", "channels": [1], "source": "other.wav"})
    content = jsonl(rows)
    manifest = put(f"{folder}/recordings.{ending}", gzip.compress(content) if ending.endswith(".gz") else content)
    table = list_source(SourceSection(manifest=manifest))
    assert [(row["uri"], dict(row["metadata"])) for row in table.to_pylist()] == [
        (f"{folder}/a.wav", {"id": "rec-1", "sampling_rate": "16000", "num_samples": "16000", "duration": "1.0"}),
        (f"{folder}/deep/a.wav", {"id": "rec-2", "sampling_rate": "16000", "num_samples": "16000", "duration": "1.0"}),
    ]
    assert list(read_all(manifest, tmp_path).values()).count(b"inside") == 1


def test_what_a_lhotse_manifest_may_not_name_is_refused(remote, secret, tmp_path):
    entries = [str(secret), "../b.wav", "http://127.0.0.1:9/a.wav", "a.wav"]
    manifest = put(f"{remote}/recordings.jsonl", jsonl([lhotse(entry, n) for n, entry in enumerate(entries)]))
    assert [reason is None for reason in refusals(manifest)] == [False, False, False, True]
    assert list(read_all(manifest, tmp_path).values()).count("source_refused") == 3
    assert refusals(manifest, ALLOWABLE) == [None] * 4


def test_a_lhotse_recording_without_sources_is_passed_over(folder):
    manifest = put(
        f"{folder}/recordings.jsonl", jsonl([lhotse(None), lhotse("a.wav", 2), {**lhotse(None), "sources": None}])
    )
    assert read_manifest(manifest, {})["uri"].to_pylist() == [f"{folder}/a.wav"]


@pytest.mark.parametrize("sources", ["a.wav", [1], [{"url": "a.wav"}], 7, {"source": "a.wav"}])
def test_a_column_sources_that_is_not_lhotses_is_refused_with_the_manifests_name(folder, sources):
    manifest = put(f"{folder}/recordings.jsonl", jsonl([{"id": "x", "sources": sources}]))
    with pytest.raises(RecipeError, match=r"recordings\.jsonl.*sources"):
        read_manifest(manifest, {})


def test_where_there_is_a_name_as_well_sources_are_what_is_said(folder):
    manifest = put(f"{folder}/list.csv", csv([{"path": "a.wav", "sources": "radio"}]))
    [row] = read_manifest(manifest, {}).to_pylist()
    assert (row["uri"], row["metadata"]) == (f"{folder}/a.wav", [("sources", "radio")])


@pytest.mark.parametrize("ending", ["json", "jsonl", "jsonl.gz"])
def test_a_nemo_manifest_names_its_recordings_by_audio_filepath(folder, tmp_path, ending):
    rows = [
        {"audio_filepath": "a.wav", "duration": 1.5, "text": "one"},
        {"audio_filepath": f"{folder}/deep/a.wav", "duration": 2.0, "text": "twö"},
    ]
    content = jsonl(rows)
    manifest = put(f"{folder}/train.{ending}", gzip.compress(content) if ending.endswith(".gz") else content)
    table = list_source(SourceSection(manifest=manifest))
    assert [(row["uri"], dict(row["metadata"])) for row in table.to_pylist()] == [
        (f"{folder}/a.wav", {"duration": "1.5", "text": "one"}),
        (f"{folder}/deep/a.wav", {"duration": "2.0", "text": "twö"}),
    ]
    assert sorted(map(str, read_all(manifest, tmp_path).values())) == ["b'deep inside'", "b'inside'"]


def test_what_a_nemo_manifest_may_not_name_is_refused(remote, secret, tmp_path):
    rows = [{"audio_filepath": entry, "duration": 1.0} for entry in (str(secret), "../b.wav", "a.wav")]
    manifest = put(f"{remote}/train.jsonl", jsonl(rows))
    assert list(read_all(manifest, tmp_path).values()).count("source_refused") == 2
    assert [reason is None for reason in refusals(manifest)] == [False, False, True]


@pytest.mark.parametrize("other", ["uri", "path"])
def test_a_name_of_ours_counts_before_nemos(folder, other):
    manifest = put(f"{folder}/list.csv", csv([{"audio_filepath": "b.wav", other: "a.wav"}]))
    [row] = read_manifest(manifest, {}).to_pylist()
    assert (row["uri"], row["metadata"]) == (f"{folder}/a.wav", [("audio_filepath", "b.wav")])
