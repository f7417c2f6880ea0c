"""Listing shards: every member that may be audio once, with what is said of it, or a problem that says why not."""

import gzip
import io
import json
import os
import random
import tarfile
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_made import STAGES

import pipelines.shards
import workers.shards
from pipelines.errors import RecipeError, StoreError
from pipelines.listing import LISTING
from pipelines.parquet import to_parquet
from pipelines.plan import find_delta, with_ids
from pipelines.planned_recordings import recording_of
from pipelines.recipe import parse_recipe
from pipelines.recipe_sections import SourceSection
from pipelines.run import plan_delta
from pipelines.runs import Runs, find_runs
from pipelines.shards import HEADER_BUFFER, KeptShards, list_parquets, list_tars
from pipelines.sources import list_source
from pipelines.store import Store
from schemas import layout
from workers.loading import SourceSettings, load_ahead
from workers.objects import Fetched, ObjectError

CORPUS = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus"
CLIPS = ("en/invalid.wav", "en/followme/status.flac", "es/confbridge-pin.mp3", "en/tt-monkeys.ogg", "en/vm-newuser.mp4")
TARS = ("shard.tar", "shard.tar.gz", "shard.tgz")
NO_RUNS = Runs("c", [], frozenset())

Row = dict[str, Any]
Members = Iterable[tuple[str | tarfile.TarInfo, bytes]]


def clip(name: str) -> bytes:
    return (CORPUS / name).read_bytes()


def tar_bytes(members: Members, kind: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        for name, content in members:
            entry = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def write_tar(path: Path, members: Members, kind: int = tarfile.PAX_FORMAT) -> Path:
    content = tar_bytes(members, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if path.suffix == ".tar" else gzip.compress(content, 1))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def with_header(name: str, headers: dict[str, str]) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.pax_headers = headers
    return entry


def listing(source: Path | str, **section: Any) -> pa.Table:
    table = list_source(SourceSection(tar=str(source), **section))
    assert table.schema == LISTING
    return table


def parquet_listing(source: Path, **section: Any) -> pa.Table:
    table = list_source(SourceSection(parquet=str(source), **section))
    assert table.schema == LISTING
    return table


def name_of(row: Row) -> str:
    return str(row["uri"]).partition("#")[2]


def by_name(table: pa.Table) -> dict[str, Row]:
    rows = table.to_pylist()
    found = {name_of(row): row for row in rows}
    assert len(found) == len(rows)
    return found


def codes(table: pa.Table) -> dict[str, str | None]:
    return {name: row["problem"] and row["problem"]["code"] for name, row in by_name(table).items()}


def notes(table: pa.Table) -> dict[str, dict[str, str]]:
    return {name: dict(row["metadata"] or []) for name, row in by_name(table).items()}


def ids(table: pa.Table) -> dict[str, str]:
    return dict(zip(table["uri"].to_pylist(), with_ids("c", table)["recording_id"].to_pylist(), strict=True))


def read_all(store: Store, table: pa.Table) -> dict[str, bytes | str]:
    """Plan a listing and read it: the content of each member, or the code of why there is none."""
    planned = find_delta(store, NO_RUNS, "c", table, STAGES).recordings.to_pylist()
    found: dict[str, bytes | str] = {}
    for recording, outcome in load_ahead(map(recording_of, planned), SourceSettings((), 1 << 30)):
        found[recording.source.uri.partition("#")[2]] = (
            outcome.content if isinstance(outcome, Fetched) else outcome.code
        )
        if isinstance(outcome, ObjectError):
            assert outcome.message
    assert len(found) == table.num_rows
    return found


# What is listed


@pytest.mark.parametrize("shard", TARS)
def test_real_clips_are_listed_by_their_names_with_what_their_sidecars_say(tmp_path, shard):
    members = []
    for number, name in enumerate(CLIPS):
        stem = name.rsplit(".", 1)[0]
        said = json.dumps({"speaker": f"s{number}", "take": number, "tags": ["a", "é"], "none": None}).encode()
        members += [
            (name, clip(name)),
            (f"{stem}.json", said),
            (f"{stem}.txt", b" what is said\n"),
            (f"{stem}.cls", b"7"),
        ]
    table = listing(write_tar(tmp_path / shard, members))
    rows = table.to_pylist()
    assert [row["uri"] for row in rows] == [f"{tmp_path / shard}#{name}" for name in CLIPS]
    assert [row["size_bytes"] for row in rows] == [len(clip(name)) for name in CLIPS]
    assert {row["modified_ns"] for row in rows} == {(tmp_path / shard).stat().st_mtime_ns}
    assert table["problem"].null_count == len(CLIPS)
    for number, row in enumerate(rows):
        assert row["metadata"] == [
            *(("speaker", f"s{number}"), ("take", str(number)), ("tags", '["a", "é"]')),
            *(("txt", "what is said"), ("cls", "7")),
        ]


@pytest.mark.parametrize("shard", TARS)
def test_what_is_planned_from_a_shard_is_read_from_it(tmp_path, store, shard):
    table = listing(write_tar(tmp_path / shard, [(name, clip(name)) for name in CLIPS]))
    assert read_all(store, table) == {name: clip(name) for name in CLIPS}


def test_a_member_of_a_tar_has_the_byte_it_begins_at_and_its_shard(tmp_path):
    path = write_tar(tmp_path / "shard.tar", [("a.txt", b"no"), *((name, clip(name)) for name in CLIPS)])
    content = path.read_bytes()
    for row in listing(path).to_pylist():
        place = row["place"]
        assert (place["shard"], place["shard_bytes"], place["piece"]) == (str(path), len(content), None)
        assert content[place["offset"] : place["offset"] + row["size_bytes"]] == clip(name_of(row))


@pytest.mark.parametrize("shard", TARS[1:])
def test_a_member_of_a_gzipped_tar_has_its_number_among_all_members(tmp_path, shard):
    members = [("a.txt", b"no"), ("a.wav", b"1"), (special("b", tarfile.DIRTYPE), b""), ("b/c.wav", b"2")]
    rows = listing(write_tar(tmp_path / shard, members)).to_pylist()
    assert [(name_of(row), row["place"]["piece"], row["place"]["offset"]) for row in rows] == [
        ("a.wav", 0, 1),
        ("b/c.wav", 0, 3),
    ]


@pytest.mark.parametrize("order", ["before", "after", "far"])
@pytest.mark.parametrize("shard", TARS)
def test_a_sidecar_may_lie_anywhere_in_its_shard(tmp_path, shard, order):
    audio, said, other = ("a.wav", b"1"), ("a.json", b'{"k": "v"}'), ("b.wav", b"2")
    members = {"before": [said, audio, other], "after": [audio, said, other], "far": [audio, other, said]}[order]
    assert notes(listing(write_tar(tmp_path / shard, members))) == {"a.wav": {"k": "v"}, "b.wav": {}}


@pytest.mark.parametrize(
    ("sidecar", "audio"),
    [
        ("a.json", ["a.wav"]),
        ("x/a.json", ["x/a.wav"]),
        ("x.y/a.json", ["x.y/a.wav", "x.y/a.left.flac"]),
        ("A.JSON", []),
        ("./a.json", []),
        ("b.json", []),
        ("a.seg.json", ["a.wav"]),
    ],
)
def test_a_sidecar_speaks_of_the_members_with_its_path_up_to_the_first_dot(tmp_path, sidecar, audio):
    names = ["a.wav", "ab.wav", "x/a.wav", "x.y/a.wav", "x.y/a.left.flac", "x.wav"]
    members = [*((name, b"1") for name in names), (sidecar, b'{"k": "v"}')]
    found = notes(listing(write_tar(tmp_path / "shard.tar", members)))
    assert [name for name in names if found[name]] == audio
    assert list(found) == names


def test_names_with_dots_of_their_own_keep_their_sidecars_apart(tmp_path):
    members = []
    for number in ("1", "2"):
        for ending, content in ((".wav", b"1"), (".txt", number.encode()), (".json", b'{"n": %s}' % number.encode())):
            members.append((f"x/2024.01.05-rec{number}{ending}", content))
    members += [("x/2024.01.05-rec3.wav", b"1"), ("x/2024.01.06.wav.json", b'{"n": 4}'), ("x/2024.01.06.wav", b"1")]
    assert notes(listing(write_tar(tmp_path / "shard.tar", members))) == {
        "x/2024.01.05-rec1.wav": {"txt": "1", "n": "1"},
        "x/2024.01.05-rec2.wav": {"txt": "2", "n": "2"},
        "x/2024.01.05-rec3.wav": {},
        "x/2024.01.06.wav": {"n": "4"},
    }


def test_the_sidecar_of_a_members_own_name_counts_before_another_of_its_sample(tmp_path):
    for sidecars in ([("a.json", b'{"k": 1}'), ("a.seg.json", b'{"k": 2}')], [("a.json", b'{"k": 1}')]):
        table = listing(write_tar(tmp_path / "shard.tar", [*sidecars, ("a.wav", b"1")]))
        assert notes(table) == {"a.wav": {"k": "1"}}


def test_a_sidecar_too_long_to_be_read_is_told(tmp_path, caplog):
    long = b"x" * (pipelines.shards.SIDECAR_BYTES + 1)
    members = [("a.wav", b"1"), ("a.txt", long), ("b.json", long), ("c.txt", b"short")]
    assert notes(listing(write_tar(tmp_path / "shard.tar", members))) == {"a.wav": {}}
    [record] = caplog.records
    assert all(part in record.getMessage() for part in ("shard.tar", "metadata: 2,", "1048576 bytes", "'a.txt'"))


@pytest.mark.parametrize(
    ("sidecar", "content", "expected"),
    [
        ("a.json", b'["x", 1]', {"json": '["x", 1]'}),
        ("a.json", b"{not json", {"json": "{not json"}),
        ("a.json", b"", {"json": ""}),
        ("a.json", b"null", {}),
        ("a.json", b'{"deep": {"er": [1, null]}, "yes": true}', {"deep": '{"er": [1, null]}', "yes": "true"}),
        ("a.json", b'{"big": ' + b"9" * 5000 + b"}", {"json": '{"big": ' + "9" * 5000 + "}"}),
        ("a.txt", b"caf\xe9", {"txt": "caf\N{REPLACEMENT CHARACTER}"}),
        ("a.txt", "Überraschung 音\r\n".encode(), {"txt": "Überraschung 音"}),
        ("a.cls", b"12\n", {"cls": "12"}),
        ("a.txt", b"x" * (pipelines.shards.SIDECAR_BYTES + 1), {}),
    ],
)
def test_a_sidecar_of_any_content_is_kept_as_text(tmp_path, sidecar, content, expected):
    table = listing(write_tar(tmp_path / "shard.tar", [("a.wav", b"1"), (sidecar, content)]))
    assert notes(table) == {"a.wav": expected}


@pytest.mark.parametrize("content", [b'{"k": "\\ud800"}', b'{"\\udfff": 1}', b"[" * 100_000, b'{"a":' * 100_000])
def test_a_hostile_sidecar_does_not_end_the_listing(tmp_path, store, content):
    table = listing(write_tar(tmp_path / "shard.tar", [("a.wav", b"1"), ("a.json", content), ("b.wav", b"2")]))
    assert read_all(store, table) == {"a.wav": b"1", "b.wav": b"2"}


@pytest.mark.parametrize(
    "sidecars",
    [
        [("a.json", b'{"txt": "one"}'), ("a.txt", b"two")],
        [("a.txt", b"one"), ("a.txt", b"two")],
        [("a.json", b'{"k": 1}'), ("a.left.json", b'{"k": 2}')],
    ],
)
def test_what_is_said_twice_under_one_name_is_kept_once_so_that_it_can_be_planned(tmp_path, store, sidecars):
    table = listing(write_tar(tmp_path / "shard.tar", [("a.wav", b"1"), *sidecars]))
    [row] = table.to_pylist()
    said = [name for name, _ in row["metadata"]]
    assert len(said) == len(set(said)) == 1
    assert find_delta(store, NO_RUNS, "c", table, STAGES).new == 1


def test_of_two_members_with_one_name_the_last_is_listed_in_its_own_place(tmp_path, store):
    members = [("a.wav", b"old"), ("b.wav", b"2"), ("a.wav", b"new")]
    for shard in TARS:
        table = listing(write_tar(tmp_path / shard, members))
        assert [uri.partition("#")[2] for uri in table["uri"].to_pylist()] == ["b.wav", "a.wav"]
        assert read_all(store, table) == {"b.wav": b"2", "a.wav": b"new"}


@pytest.mark.parametrize("shard", TARS)
def test_folders_and_pictures_are_no_recordings(tmp_path, shard):
    others = [
        "a.jpg",
        "a.PNG",
        "a.npy",
        "x/a.pyd",
        "a.pickle.pkl",
        "readme.md",
        "index.csv",
        "a.txt",
        "a.JSON",
        "a.cls",
        *("a.TextGrid", "a.lab", "a.srt", "a.xml", "a.tsv"),
        *("._a.wav", "x/._a.wav", "._a.json"),
    ]
    members = [(special("x", tarfile.DIRTYPE), b""), ("a.wav", b"1"), *((name, b"0") for name in others)]
    assert list(by_name(listing(write_tar(tmp_path / shard, members)))) == ["a.wav"]


def test_what_may_be_audio_under_any_name_is_listed(tmp_path):
    names = ["noending", "a.bin", "a.xyz", "a.WAV", "jpg", ".hidden.wav"]
    found = by_name(listing(write_tar(tmp_path / "shard.tar", [(name, b"1") for name in names])))
    assert list(found) == names


@pytest.mark.parametrize("shard", TARS)
def test_members_without_bytes_are_listed_and_read(tmp_path, store, shard):
    table = listing(write_tar(tmp_path / shard, [("a.wav", b""), ("b.wav", b"2"), ("c.wav", b"")]))
    assert read_all(store, table) == {"a.wav": b"", "b.wav": b"2", "c.wav": b""}


# Names


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("shard", TARS)
@pytest.mark.parametrize(
    "name",
    [
        "deep/" * 60 + "a.wav",
        "x" * 300 + ".wav",
        "Überraschung/音 楽.wav",
        "a b+c(1)=x&y%20?.wav",
        "it's #1.wav",
        "./a.wav",
        "a\nb.wav",
        "...wav",
        "a..b.wav",
        "..a/b..wav",
    ],
)
def test_any_name_is_listed_and_read_as_it_is(tmp_path, store, name, shard, kind):
    path = write_tar(tmp_path / shard, [("first.wav", b"0"), (name, b"content"), ("last.wav", b"2")], kind)
    table = listing(path)
    assert codes(table) == {"first.wav": None, name: None, "last.wav": None}
    assert read_all(store, table)[name] == b"content"


@pytest.mark.parametrize("shard", TARS)
def test_a_name_that_is_no_text_is_listed_all_the_same(tmp_path, store, shard):
    name = b"caf\xe9.wav".decode("utf-8", "surrogateescape")
    path = write_tar(tmp_path / shard, [("a.wav", b"1"), (name, b"2"), ("b.wav", b"3")], tarfile.GNU_FORMAT)
    found = read_all(store, listing(path))
    assert len(found) == 3
    assert (found["a.wav"], found["b.wav"]) == (b"1", b"3")


@pytest.mark.parametrize("shard", TARS)
@pytest.mark.parametrize("name", ["../a.wav", "x/../../a.wav", "x/../a.wav", "/etc/a.wav", "//a.wav", "x/.."])
def test_a_name_that_leads_out_of_the_shard_is_refused_and_the_others_are_not(tmp_path, store, name, shard):
    table = listing(write_tar(tmp_path / shard, [("b.wav", b"1"), (name, b"out"), ("c.wav", b"2")]))
    assert codes(table) == {"b.wav": None, name: "source_refused", "c.wav": None}
    assert name in by_name(table)[name]["problem"]["message"]
    assert read_all(store, table) == {"b.wav": b"1", name: "source_refused", "c.wav": b"2"}


@pytest.mark.parametrize("shard", TARS)
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused_and_never_followed(tmp_path, store, kind, shard):
    secret = tmp_path / "secret.wav"
    secret.write_bytes(b"secret")
    for target in ("b.wav", str(secret)):
        members = [("b.wav", b"1"), (special("a.wav", kind, target), b""), ("c.wav", b"2")]
        table = listing(write_tar(tmp_path / shard, members))
        assert codes(table) == {"b.wav": None, "a.wav": "source_refused", "c.wav": None}
        assert "link or a device" in by_name(table)["a.wav"]["problem"]["message"]
        assert read_all(store, table) == {"b.wav": b"1", "a.wav": "source_refused", "c.wav": b"2"}


@pytest.mark.parametrize("shard", TARS)
def test_of_members_of_one_name_the_last_counts(tmp_path, store, shard):
    table = listing(write_tar(tmp_path / shard, [("a.wav", b"old"), ("b.wav", b"1"), ("a.wav", b"newer")]))
    assert codes(table) == {"a.wav": None, "b.wav": None}
    assert by_name(table)["a.wav"]["size_bytes"] == 5
    assert read_all(store, table) == {"a.wav": b"newer", "b.wav": b"1"}


# Versions


def test_ids_are_the_same_in_every_listing_and_in_any_order_of_shards(tmp_path):
    for number in range(3):
        write_tar(tmp_path / "all" / f"{number}.tar", [("a.wav", bytes([number])), ("b.wav", b"1")])
    first = ids(listing(tmp_path / "all"))
    assert len(set(first.values())) == 6
    assert ids(listing(tmp_path / "all")) == first
    table = list_source(SourceSection(uri=str(tmp_path / "all")))
    backwards = list_tars(table.take([2, 0, 1]), {}, None)
    assert ids(backwards) == first
    assert backwards["uri"].to_pylist() != list(first)
    assert ids(listing(tmp_path / "all" / "1.tar")).items() < first.items()


@pytest.mark.parametrize("shard", TARS)
def test_a_changed_shard_is_another_version_of_all_its_members_and_of_no_others(tmp_path, shard):
    changing = write_tar(tmp_path / shard, [("a.wav", b"1"), ("b.wav", b"2")])
    write_tar(tmp_path / "other.tar", [("a.wav", b"1")])
    before = ids(listing(tmp_path))
    write_tar(changing, [("a.wav", b"1"), ("b.wav", b"3")])
    os.utime(changing, ns=(1, 1))
    after = ids(listing(tmp_path))
    assert {uri for uri in before if before[uri] != after[uri]} == {f"{changing}#a.wav", f"{changing}#b.wav"}
    assert before.keys() == after.keys()


def test_a_shard_that_grew_without_another_time_is_another_version(tmp_path):
    path = write_tar(tmp_path / "shard.tar", [("a.wav", b"1")])
    os.utime(path, ns=(1, 1))
    before = ids(listing(path))
    path.write_bytes(path.read_bytes() + bytes(10240))
    os.utime(path, ns=(1, 1))
    after = ids(listing(path))
    assert before.keys() == after.keys()
    assert before != after


# Damage


def three_clips() -> tuple[bytes, dict[str, int]]:
    """A tar of three clips, and where the content of each ends."""
    content = tar_bytes([(name, clip(name)) for name in CLIPS[:3]])
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return content, {entry.name: entry.offset_data + entry.size for entry in tar}


WHOLE, ENDS = three_clips()
LAST = max(ENDS.values())
HEADERS = [0, *((end + 511) // 512 * 512 for end in ENDS.values())]  # the last is the end marker


def good(table: pa.Table) -> list[str]:
    return [name for name, code in codes(table).items() if code is None]


def check_damage(table: pa.Table, path: Path) -> None:
    """Exactly one row says that the shard is damaged, where, and how."""
    [row] = [row for row in table.to_pylist() if row["problem"]]
    assert row["problem"]["code"] == "shard_damaged"
    assert str(path) in row["problem"]["message"]
    assert (row["uri"], row["size_bytes"]) == (f"{path}#", 0)


@pytest.mark.parametrize("cut", [1, 511, 512, 700, HEADERS[1] - 1, HEADERS[1], HEADERS[1] + 600, HEADERS[2], LAST - 1])
def test_of_a_tar_that_is_cut_short_what_is_whole_is_listed_and_the_damage_is_told(tmp_path, store, cut):
    path = tmp_path / "shard.tar"
    path.write_bytes(WHOLE[:cut])
    table = listing(path)
    check_damage(table, path)
    found = read_all(store, table)
    whole = [name for name, end in ENDS.items() if end <= cut]
    assert [name for name, content in found.items() if isinstance(content, bytes)] == whole
    assert all(found[name] == clip(name) for name in whole)
    assert {content for content in found.values() if isinstance(content, str)} == {"shard_damaged"}
    assert good(table) == whole


@pytest.mark.parametrize("cut", [LAST, HEADERS[3], HEADERS[3] + 511])
def test_a_tar_without_an_end_marker_may_have_lost_members(tmp_path, cut):
    path = tmp_path / "shard.tar"
    path.write_bytes(WHOLE[:cut])
    table = listing(path)
    check_damage(table, path)
    assert good(table) == list(ENDS)


@pytest.mark.parametrize("cut", [HEADERS[3] + 512, HEADERS[3] + 1024, len(WHOLE)])
def test_a_tar_with_an_end_marker_is_whole_whatever_follows_it_of_padding(tmp_path, cut):
    path = tmp_path / "shard.tar"
    path.write_bytes(WHOLE[:cut])
    assert codes(listing(path)) == dict.fromkeys(ENDS)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.6, 0.95, 0.999])
@pytest.mark.parametrize("shard", TARS[1:])
def test_of_a_gzipped_tar_that_is_cut_short_what_is_whole_is_listed_and_the_damage_is_told(
    tmp_path, store, shard, part
):
    path = tmp_path / shard
    packed = gzip.compress(WHOLE)
    path.write_bytes(packed[: int(len(packed) * part)])
    table = listing(path)
    check_damage(table, path)
    found = read_all(store, table)
    unpacked = unpack_what_is_there(path.read_bytes())
    whole = [name for name, end in ENDS.items() if end <= len(unpacked)]
    assert [name for name, content in found.items() if isinstance(content, bytes)] == whole
    assert all(found[name] == clip(name) for name in whole)
    assert {content for content in found.values() if isinstance(content, str)} == {"shard_damaged"}


def unpack_what_is_there(packed: bytes) -> bytes:
    unpacked = bytearray()
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
        try:
            while byte := file.read1(1):
                unpacked += byte
        except EOFError:
            pass
    return bytes(unpacked)


@pytest.mark.parametrize("member", [0, 1, 2, 3])
@pytest.mark.parametrize("shard", ["shard.tar", "shard.tar.gz"])
def test_garbage_where_a_header_should_be_is_damage_and_what_lies_before_it_is_listed(tmp_path, store, shard, member):
    path, start = tmp_path / shard, HEADERS[member]
    content = WHOLE[:start] + random.Random(member).randbytes(512) + WHOLE[start + 512 :]
    path.write_bytes(gzip.compress(content, 1) if shard.endswith(".gz") else content)
    table = listing(path)
    check_damage(table, path)
    assert good(table) == list(ENDS)[:member]
    assert read_all(store, table) == {"": "shard_damaged", **{name: clip(name) for name in list(ENDS)[:member]}}


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_gzipped_tar_that_fails_its_own_checksum_is_told_to_be_damaged_also_where_its_headers_are_well(
    tmp_path, part
):
    content = random.Random(3).randbytes(40_000)  # no compression: a byte is one byte, and spoils no header
    packed = bytearray(gzip.compress(tar_bytes([("a.wav", content)])))
    packed[int(len(content) * part)] ^= 1
    path = tmp_path / "shard.tar.gz"
    path.write_bytes(packed)
    check_damage(listing(path), path)


@pytest.mark.parametrize("member", [0, 1, 2])
@pytest.mark.parametrize("zeros", [512, 4096])
def test_a_hole_of_zeros_is_not_taken_for_the_end_of_a_tar_that_goes_on(tmp_path, member, zeros):
    path, start = tmp_path / "shard.tar", HEADERS[member]
    path.write_bytes(WHOLE[:start] + bytes(zeros) + WHOLE[start + zeros :])
    table = listing(path)
    check_damage(table, path)
    assert good(table) == list(ENDS)[:member]


def test_two_tars_in_one_file_are_not_taken_for_the_first_alone(tmp_path):
    path = tmp_path / "shard.tar"
    path.write_bytes(tar_bytes([("a.wav", b"1")]) + tar_bytes([("b.wav", b"2")]))
    found = codes(listing(path))
    assert "b.wav" in found or "shard_damaged" in found.values()


@pytest.mark.parametrize(
    ("shard", "content"),
    [
        ("shard.tar", b""),
        ("shard.tar", b"no tar at all" * 100),
        ("shard.tar", gzip.compress(WHOLE, 1, mtime=0)),
        ("shard.tar.gz", b""),
        ("shard.tar.gz", WHOLE),
        ("shard.tar.gz", gzip.compress(b"no tar at all" * 100, mtime=0)),
        ("shard.tgz", b"\x1f\x8b\x08" + b"\xff" * 600),
    ],
)
def test_a_shard_that_is_something_else_is_one_damaged_row_and_the_other_shards_are_listed(tmp_path, shard, content):
    path = tmp_path / shard
    path.write_bytes(content)
    other = write_tar(tmp_path / "zzz.tar", [("a.wav", b"1")])
    table = listing(tmp_path)
    assert sorted(table["uri"].to_pylist()) == sorted([f"{path}#", f"{other}#a.wav"])
    check_damage(table, path)


@pytest.mark.parametrize(
    "headers",
    [
        {"size": "9" * 30},
        {"size": str(1 << 62)},
        {"size": "-1"},
        {"size": "-1024"},
        {"GNU.sparse.size": "x"},
        {"GNU.sparse.map": "x,y"},
        {"GNU.sparse.map": "0"},
        {"GNU.sparse.realsize": "9" * 30, "GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
        {"GNU.sparse.realsize": "x", "GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
    ],
)
@pytest.mark.parametrize("shard", ["shard.tar", "shard.tar.gz"])
def test_a_header_that_lies_costs_its_own_shard_what_follows_it_and_never_the_listing(tmp_path, store, shard, headers):
    members = [("a.wav", b"1" * 600), (with_header("h.wav", headers), b"2" * 600), ("z.wav", b"3")]
    path = write_tar(tmp_path / shard, members)
    other = write_tar(tmp_path / "zzz.tar", [("a.wav", b"1")])
    rows = {row["uri"]: row for row in listing(tmp_path).to_pylist()}
    assert rows[f"{path}#a.wav"]["problem"] is None
    assert rows[f"{other}#a.wav"]["problem"] is None
    assert any(row["problem"] for row in rows.values())
    sizes = [row["size_bytes"] for row in rows.values() if row["problem"] is None]
    assert all(size >= 0 for size in sizes)
    assert shard.endswith(".gz") or max(sizes) <= path.stat().st_size


def test_members_that_lead_round_in_a_circle_are_walked_once(tmp_path):
    """The size of the second leads back to its own first header, for ever."""
    path = write_tar(tmp_path / "shard.tar", [("a.wav", b"1"), (with_header("h.wav", {"size": "-1536"}), b"2")])
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
        seen = 0
        with pytest.raises(pipelines.shards.DAMAGE):  # noqa: PT012 - the walk is what raises
            for _ in workers.shards.entries(tar):
                seen += 1
                assert seen < 100, "it walks in a circle"
        assert seen <= 2


def sparse_member(name: str, holes: int, data: bytes) -> bytes:
    """A tar with one sparse file as GNU tar's --sparse writes it (pax, 1.0): a hole, then data."""
    size = holes + len(data)
    table = f"1\n{holes}\n{len(data)}\n".encode().ljust(512, b"\0")
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(size),
    }
    members = [(with_header(f"GNUSparseFile.0/{name}", headers), table + data), ("z.wav", b"next" * 1000)]
    return tar_bytes(members)


@pytest.mark.parametrize("shard", ["shard.tar", "shard.tar.gz"])
def test_a_sparse_member_is_read_as_it_was_or_told_to_be_none_we_read(tmp_path, store, shard):
    content, path = sparse_member("a.wav", 4096, b"data" * 100), tmp_path / shard
    path.write_bytes(gzip.compress(content) if shard.endswith(".gz") else content)
    found = read_all(store, listing(path))
    assert found["z.wav"] == b"next" * 1000
    assert found["a.wav"] in (bytes(4096) + b"data" * 100, "source_refused")


def test_a_shard_that_is_gone_ends_the_listing_with_its_name(tmp_path):
    path = write_tar(tmp_path / "shard.tar", [("a.wav", b"1")])
    shards = list_source(SourceSection(uri=str(tmp_path)))
    path.unlink()
    with pytest.raises(StoreError, match=r"shard\.tar"):
        list_tars(shards, {}, None)


# Where shards are looked for


@pytest.mark.parametrize("where", ["{}", "{}/", "file://{}", "{}/*.t*", "{}/**", "{}/[ab].*"])
def test_shards_are_a_prefix_or_a_glob_and_what_has_another_ending_is_none(tmp_path, where):
    write_tar(tmp_path / "in" / "a.tar", [("1.wav", b"1")])
    write_tar(tmp_path / "in" / "b.tgz", [("2.wav", b"1")])
    (tmp_path / "in" / "a.index").write_bytes(b"x")
    (tmp_path / "in" / "loose.wav").write_bytes(b"x")
    (tmp_path / "in" / "a.parquet").write_bytes(b"x")
    assert sorted(by_name(listing(where.format(tmp_path / "in")))) == ["1.wav", "2.wav"]


@pytest.mark.parametrize("shard", ["X.TAR", "x.Tar.GZ", "x.TGZ"])
def test_endings_of_shards_may_be_written_in_capitals(tmp_path, store, shard):
    content = tar_bytes([("a.wav", b"1")])
    (tmp_path / shard).write_bytes(content if shard.endswith(".TAR") else gzip.compress(content))
    assert read_all(store, listing(tmp_path)) == {"a.wav": b"1"}


def test_endings_of_parquet_may_be_written_in_capitals(tmp_path, store):
    for name in ("a.PARQUET", "b.Pq"):
        pq.write_table(pa.table({"audio": pa.array([name.encode()], pa.binary())}), tmp_path / name)
    table = parquet_listing(tmp_path)
    assert table.num_rows == 2
    assert read_all(store, table.slice(0, 1)) == {"0": b"a.PARQUET"}


def test_a_source_without_shards_is_refused_with_its_name(tmp_path):
    (tmp_path / "loose.wav").write_bytes(b"x")
    with pytest.raises(RecipeError, match=str(tmp_path)):
        listing(tmp_path)


@pytest.fixture
def in_memory() -> Iterator[fsspec.AbstractFileSystem]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.rm("/shards", recursive=True)


@pytest.mark.parametrize("shard", TARS)
def test_a_remote_shard_lists_and_reads_as_a_local_one(tmp_path, store, in_memory, shard):
    local = write_tar(tmp_path / shard, [(name, clip(name)) for name in CLIPS])
    in_memory.pipe(f"/shards/{shard}", local.read_bytes())
    there, here = listing("memory://shards/"), listing(local)
    assert listing(f"memory://shards/{shard}").to_pylist() == there.to_pylist()
    assert [row["uri"] for row in there.to_pylist()] == [f"memory://shards/{shard}#{name}" for name in CLIPS]
    for name in ("piece", "offset"):
        assert [row["place"][name] for row in there.to_pylist()] == [row["place"][name] for row in here.to_pylist()]
    assert read_all(store, there) == {name: clip(name) for name in CLIPS}


def test_only_headers_of_a_tar_are_read_to_list_it(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "shard.tar", [(f"{number}.wav", bytes(8 << 20)) for number in range(4)])
    asked = []
    read_range = workers.shards.read_range

    def counted(source: Any, start: int, length: int, options: Any) -> bytes:
        asked.append(length)
        return read_range(source, start, length, options)

    monkeypatch.setattr(workers.shards, "read_range", counted)
    assert len(by_name(listing(path))) == 4
    assert 0 < sum(asked) <= 10 * HEADER_BUFFER < path.stat().st_size / 8


# Which members are chosen


MIXED = ("en/a.wav", "en/deep/b.wav", "es/a.mp3", "c.wav")


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (("*.wav",), (), ["en/a.wav", "en/deep/b.wav", "c.wav"]),
        ((), ("*.mp3",), ["en/a.wav", "en/deep/b.wav", "c.wav"]),
        (("*.tar#en/*",), (), ["en/a.wav"]),
        (("*.tar#en/**",), (), ["en/a.wav", "en/deep/b.wav"]),
        (("shard.tar#c.wav",), (), ["c.wav"]),
        (("deep/*",), (), ["en/deep/b.wav"]),
        (("en/*.wav",), (), ["en/a.wav"]),
        (("a.*",), (), ["en/a.wav", "es/a.mp3"]),
        ((), ("es/*",), ["en/a.wav", "en/deep/b.wav", "c.wav"]),
        (("c.wav",), (), ["c.wav"]),
        (("{folder}/shard.tar#es/*",), (), ["es/a.mp3"]),
    ],
)
def test_include_and_exclude_choose_among_members_as_among_files(tmp_path, include, exclude, expected):
    path = write_tar(tmp_path / "shard.tar", [(name, b"1") for name in MIXED])
    include = tuple(pattern.format(folder=tmp_path) for pattern in include)
    assert list(by_name(listing(path, include=include, exclude=exclude))) == expected


@pytest.mark.parametrize("section", [{"include": ("*.wav",)}, {"exclude": ("*.mp3",)}, {"include": ("*.tar#a*",)}])
def test_damage_is_told_whatever_is_chosen_for_who_knows_what_was_lost(tmp_path, section):
    path = tmp_path / "shard.tar"
    path.write_bytes(tar_bytes([("a.wav", b"1"), ("b.mp3", b"2")])[:2048])
    table = listing(path, **section)
    check_damage(table, path)
    assert "a.wav" in good(table)


# What is kept


def looking_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(shard: Any, *_: Any) -> Any:
        raise AssertionError(f"looked into {shard.uri} again")

    for name in ("open_tar", "open_shard"):
        monkeypatch.setattr(pipelines.shards, name, look)


def everything(folder: Path) -> Path:
    """Shards with metadata, refused members, damage, and none of these."""
    write_tar(folder / "a.tar", [("a.wav", b"1"), ("a.json", b'{"k": "\xc3\xa9", "n": 1}'), ("../b.wav", b"2")])
    write_tar(folder / "b.tar.gz", [("a.wav", b"1"), (special("l.wav", tarfile.SYMTYPE, "a.wav"), b"")])
    (folder / "c.tar").write_bytes(WHOLE[: HEADERS[1]])
    write_tar(folder / "d.tar", [])
    return folder


def test_what_was_found_in_a_shard_is_kept_and_used_again(tmp_path, monkeypatch):
    folder, kept = everything(tmp_path / "shards"), KeptShards(Store(str(tmp_path / "lake")), "c", adds=True)
    section = SourceSection(tar=str(folder))
    first = list_source(section, kept)
    assert len(kept.store.list(layout.shards_folder("c"))) == 4
    looking_is_an_error(monkeypatch)
    again = list_source(section, KeptShards(Store(str(tmp_path / "lake")), "c", adds=False))
    assert again.schema == LISTING
    assert again.to_pylist() == first.to_pylist()
    with pytest.raises(AssertionError, match="looked into"):  # each corpus keeps its own
        list_source(section, KeptShards(kept.store, "other", adds=False))


def test_only_new_and_changed_shards_are_looked_into(tmp_path, monkeypatch):
    folder, kept = everything(tmp_path / "shards"), KeptShards(Store(str(tmp_path / "lake")), "c", adds=True)
    list_source(SourceSection(tar=str(folder)), kept)
    write_tar(folder / "a.tar", [("changed.wav", b"1" * 99)])
    write_tar(folder / "e.tar", [("new.wav", b"1")])
    looked, open_tar = [], pipelines.shards.open_tar

    def noted(shard: Any, *rest: Any) -> Any:
        looked.append(Path(shard.uri).name)
        return open_tar(shard, *rest)

    monkeypatch.setattr(pipelines.shards, "open_tar", noted)
    found = {Path(uri).name for uri in list_source(SourceSection(tar=str(folder)), kept)["uri"].to_pylist()}
    assert sorted(looked) == ["a.tar", "e.tar"]
    assert {"a.tar#changed.wav", "e.tar#new.wav", "b.tar.gz#a.wav"} < found
    assert "a.tar#a.wav" not in found


def test_nothing_is_kept_where_it_is_only_asked(tmp_path):
    folder, store = everything(tmp_path / "shards"), Store(str(tmp_path / "lake"))
    listed = list_source(SourceSection(tar=str(folder)), KeptShards(store, "c", adds=False))
    assert listed.to_pylist() == list_source(SourceSection(tar=str(folder))).to_pylist()
    assert not (tmp_path / "lake").exists()


def test_plan_keeps_nothing_and_a_run_keeps_what_the_next_plan_uses(tmp_path, monkeypatch):
    folder, store = everything(tmp_path / "shards"), Store(str(tmp_path / "lake"))
    recipe = parse_recipe({"corpus": "c", "source": {"tar": str(folder)}, "lake": {"uri": store.uri}}, "the test's")
    asked = plan_delta(recipe, store, NO_RUNS, STAGES)
    assert not (tmp_path / "lake").exists()
    planned = plan_delta(recipe, store, NO_RUNS, STAGES, keep_shards=True)
    assert all(path.startswith(layout.shards_folder("c")) for path in store.list(""))
    assert find_runs(store, "c").names == []  # what is kept is no run
    looking_is_an_error(monkeypatch)
    again = plan_delta(recipe, store, NO_RUNS, STAGES)
    assert planned.recordings.to_pylist() == asked.recordings.to_pylist() == again.recordings.to_pylist()
    assert (again.new, again.listed) == (6, 6)


def test_each_way_to_read_a_parquet_file_is_kept_apart(tmp_path):
    table = pa.table({"left": [b"1"], "right": [b"2" * 5000]})
    path, kept = write_parquet(tmp_path / "a.parquet", table), KeptShards(Store(str(tmp_path / "lake")), "c", adds=True)
    sizes = []
    for column in ("left", "right", "left"):
        listed = list_source(SourceSection(parquet=str(path), audio_column=column), kept)
        sizes.append(listed["size_bytes"].to_pylist())
    assert sizes[0] == sizes[2] != sizes[1]
    assert len(kept.store.list("")) == 2


# Parquet


def write_parquet(path: Path, table: pa.Table, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_parquet(table)) if not how else pq.write_table(table, path, **how)
    return path


def audio(contents: list[bytes | None], kind: str) -> pa.Array:
    """A column as Hugging Face writes it, or of plain bytes."""
    paths = pa.array([None if content is None else f"{number}.wav" for number, content in enumerate(contents)])
    nulls = pa.array([content is None for content in contents], pa.bool_())
    if kind == "struct":
        return pa.StructArray.from_arrays([pa.array(contents, pa.binary()), paths], ["bytes", "path"], mask=nulls)
    if kind == "struct without path":
        return pa.StructArray.from_arrays([pa.array(contents, pa.binary())], ["bytes"])
    if kind == "struct of large bytes":
        return pa.StructArray.from_arrays([paths, pa.array(contents, pa.large_binary())], ["path", "bytes"])
    return pa.array(contents, pa.binary() if kind == "binary" else pa.large_binary())


KINDS = ("struct", "struct without path", "struct of large bytes", "binary", "large_binary")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_parquet_file_are_listed_by_their_number_and_read(tmp_path, store, kind):
    contents = [clip(name) for name in CLIPS]
    table = parquet_listing(write_parquet(tmp_path / "a.parquet", pa.table({"audio": audio(contents, kind)})))
    assert table["uri"].to_pylist() == [f"{tmp_path}/a.parquet#{number}" for number in range(len(CLIPS))]
    assert table["problem"].null_count == len(CLIPS)
    assert read_all(store, table) == {str(number): content for number, content in enumerate(contents)}
    total = sum(map(len, contents))
    assert sum(table["size_bytes"].to_pylist()) == pytest.approx(total, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_audio_is_listed_and_empty(tmp_path, store, kind):
    table = parquet_listing(write_parquet(tmp_path / "a.parquet", pa.table({"a": audio([b"1", None, b""], kind)})))
    assert read_all(store, table) == {"0": b"1", "1": "empty", "2": b""}


@pytest.mark.parametrize("kind", ["struct", "binary"])
def test_rows_are_numbered_through_all_row_groups(tmp_path, store, kind):
    contents = [bytes([number]) * (number + 1) for number in range(25)]
    rows = pa.table({"audio": audio(contents, kind), "n": pa.array(range(25))})
    table = parquet_listing(write_parquet(tmp_path / "a.parquet", rows, row_group_size=10))
    places = [(row["place"]["piece"], row["place"]["offset"]) for row in table.to_pylist()]
    assert places == [(number // 10, number % 10) for number in range(25)]
    assert notes(table) == {
        str(number): {"n": str(number), **({"path": f"{number}.wav"} if kind == "struct" else {})}
        for number in range(25)
    }
    assert read_all(store, table) == {str(number): content for number, content in enumerate(contents)}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array(["café", None]), "café"),
        (pa.array(["x", None], pa.large_string()), "x"),
        (pa.array([7, None]), "7"),
        (pa.array([2**64 - 1, None], pa.uint64()), "18446744073709551615"),
        (pa.array([0.5, None]), "0.5"),
        (pa.array([True, None]), "true"),
        (pa.array([Decimal("1.50"), None]), "1.50"),
        (pa.array([date(2024, 5, 1), None]), "2024-05-01"),
        (pa.array([datetime(2024, 5, 1, 12), None], pa.timestamp("s")), "2024-05-01 12:00:00.000"),
        (pa.array([datetime(2024, 5, 1, tzinfo=UTC), None], pa.timestamp("us", "UTC")), "2024-05-01 00:00:00.000000Z"),
    ],
)
def test_plain_columns_become_metadata_as_text_and_nulls_are_left_out(tmp_path, store, values, expected):
    rows = pa.table({"before": values, "audio": audio([b"1", b"2"], "binary")})
    table = parquet_listing(write_parquet(tmp_path / "a.parquet", rows))
    assert notes(table) == {"0": {"before": expected}, "1": {}}
    assert find_delta(store, NO_RUNS, "c", table, STAGES).new == 2


def test_a_column_in_a_dictionary_becomes_metadata_as_any_other(tmp_path):
    speaker = pa.array(["ada", None, "ada"]).dictionary_encode()
    take = pa.array([1, 2, 1]).dictionary_encode()
    pq.write_table(pa.table({"audio": [b"1", b"2", b"3"], "speaker": speaker, "take": take}), tmp_path / "a.parquet")
    assert [dict(row["metadata"]) for row in parquet_listing(tmp_path).to_pylist()] == [
        {"speaker": "ada", "take": "1"},
        {"take": "2"},
        {"speaker": "ada", "take": "1"},
    ]


@pytest.mark.parametrize(
    "audio",
    [
        pa.array([b"one", b"two", None, b"one"]).dictionary_encode(),
        pa.array([b"one", b"two", None, b"one"], pa.binary(3)),
        pa.array([{"bytes": one} for one in (b"one", b"two", None, b"one")], pa.struct([("bytes", pa.binary(3))])),
    ],
    ids=["dictionary", "fixed size", "struct of fixed size"],
)
def test_audio_in_a_dictionary_or_of_one_length_is_read(tmp_path, store, audio):
    pq.write_table(pa.table({"audio": audio}), tmp_path / "a.parquet")
    expected = {"0": b"one", "1": b"two", "2": "empty", "3": b"one"}
    assert read_all(store, parquet_listing(tmp_path)) == expected
    assert read_all(store, parquet_listing(tmp_path, audio_column="audio").slice(3)) == {"3": b"one"}


def test_identifiers_of_one_length_are_no_rival_of_the_audio(tmp_path, store):
    columns = {"audio": pa.array([b"1"], pa.binary()), "id": pa.array([b"0" * 16], pa.binary(16))}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert read_all(store, parquet_listing(tmp_path)) == {"0": b"1"}


def test_a_column_of_metadata_that_unpacks_to_more_than_memory_is_left_out_and_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pipelines.shards, "COLUMN_BYTES", 1000)
    monkeypatch.setattr(pipelines.shards, "SIDECAR_BYTES", 1000)
    columns = {"audio": pa.array([b"1", b"2"], pa.binary()), "long": ["x" * 2000, "y" * 2000], "short": ["a", "b"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert [dict(row["metadata"]) for row in parquet_listing(tmp_path).to_pylist()] == [{"short": "a"}, {"short": "b"}]
    [record] = caplog.records
    assert all(part in record.getMessage() for part in ("a.parquet", "column long", "row group 0", "1000 bytes a row"))


def test_what_is_nested_or_binary_is_left_out(tmp_path):
    rows = pa.table(
        {
            "audio": audio([b"1"], "struct"),
            "text": ["said"],
            "list": [[1, 2]],
            "struct": [{"a": 1}],
            "map": pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string())),
            "hash": pa.array([b"\xff\xfe"], pa.binary(2)),
        }
    )
    assert notes(parquet_listing(write_parquet(tmp_path / "a.parquet", rows))) == {
        "0": {"text": "said", "path": "0.wav"}
    }


def test_a_column_path_beside_the_path_of_the_audio_is_kept_once_so_that_it_can_be_planned(tmp_path, store):
    rows = pa.table({"path": ["clips/a.wav"], "audio": audio([b"1"], "struct")})
    table = parquet_listing(write_parquet(tmp_path / "a.parquet", rows))
    assert [name for name, _ in table["metadata"].to_pylist()[0]] == ["path"]
    assert find_delta(store, NO_RUNS, "c", table, STAGES).new == 1


def test_of_several_columns_that_may_be_audio_one_must_be_named(tmp_path, store):
    rows = pa.table({"left": audio([b"1"], "struct"), "n": [1], "right": audio([b"2"], "binary")})
    path = write_parquet(tmp_path / "a.parquet", rows)
    with pytest.raises(RecipeError, match=r"source\.audio_column") as caught:
        parquet_listing(path)
    assert all(part in str(caught.value) for part in (str(path), "left", "right"))
    for column, content in (("left", b"1"), ("right", b"2")):
        table = parquet_listing(path, audio_column=column)
        assert notes(table)["0"] == {"n": "1", **({"path": "0.wav"} if column == "left" else {})}
        planned = [recording_of(row) for row in find_delta(store, NO_RUNS, "c", table, STAGES).recordings.to_pylist()]
        [(_, fetched)] = load_ahead(planned, SourceSettings((), 1 << 20, column))
        assert fetched.content == content


@pytest.mark.parametrize("columns", [{"text": ["a"]}, {"audio": [{"path": "a.wav"}]}, {"audio": [[1.0, 2.0]]}])
def test_a_parquet_file_without_audio_is_refused(tmp_path, columns):
    path = write_parquet(tmp_path / "a.parquet", pa.table(columns))
    with pytest.raises(RecipeError, match=r"no binary column.*source\.audio_column") as caught:
        parquet_listing(path)
    assert str(path) in str(caught.value)


def test_a_parquet_file_with_two_columns_of_one_name_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([b"1"]), pa.array(["a"]), pa.array(["b"])], names=["audio", "k", "k"])
    with pytest.raises(RecipeError, match=r"a\.parquet.* more than one column k"):
        parquet_listing(write_parquet(tmp_path / "a.parquet", table))


@pytest.mark.parametrize("column", ["text", "nowhere", "audio.bytes"])
def test_a_named_column_that_is_no_audio_is_refused_with_those_that_are(tmp_path, column):
    rows = pa.table({"audio": audio([b"1"], "struct"), "text": ["said"]})
    path = write_parquet(tmp_path / "a.parquet", rows)
    with pytest.raises(RecipeError, match=column) as caught:
        parquet_listing(path, audio_column=column)
    assert "audio" in str(caught.value)


def test_a_parquet_file_without_rows_adds_nothing(tmp_path):
    empty = pa.table({"audio": audio([], "struct")})
    write_parquet(tmp_path / "in" / "a.parquet", empty)
    write_parquet(tmp_path / "in" / "b.parquet", pa.table({"audio": audio([b"1"], "struct")}))
    assert parquet_listing(tmp_path / "in")["uri"].to_pylist() == [f"{tmp_path}/in/b.parquet#0"]


GOOD_PARQUET = to_parquet(pa.table({"audio": audio([b"1" * 5000, b"2" * 5000], "struct"), "n": [1, 2]}))


@pytest.mark.parametrize(
    "content",
    [b"", b"PAR1", b"no parquet at all", GOOD_PARQUET[:-1], GOOD_PARQUET[: len(GOOD_PARQUET) // 2], GOOD_PARQUET[100:]],
)
def test_a_damaged_parquet_file_is_one_row_that_says_so_and_the_others_are_listed(tmp_path, store, content):
    (tmp_path / "a.parquet").write_bytes(content)
    write_parquet(tmp_path / "b.parquet", pa.table({"audio": audio([b"1"], "struct")}))
    table = parquet_listing(tmp_path)
    check_damage(table, tmp_path / "a.parquet")
    assert read_all(store, table) == {"": "shard_damaged", "0": b"1"}


def test_ids_of_rows_are_stable_and_change_with_their_file(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", pa.table({"audio": audio([b"1", b"2"], "struct")}))
    before = ids(parquet_listing(path))
    assert ids(parquet_listing(path)) == before
    write_parquet(path, pa.table({"audio": audio([b"1", b"3" * 600], "struct")}))
    after = ids(parquet_listing(path))
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())


def test_include_chooses_among_rows_by_their_numbers(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", pa.table({"audio": audio([b"1", b"2", b"3"], "struct")}))
    assert list(by_name(parquet_listing(path, include=("a.parquet#[02]",)))) == ["0", "2"]
    assert list(by_name(parquet_listing(path, exclude=("*#1",)))) == ["0", "2"]


def test_audio_is_not_read_to_list_a_parquet_file(tmp_path, monkeypatch):
    noise = random.Random(1)
    rows = pa.table({"audio": audio([noise.randbytes(2 << 20) for _ in range(8)], "struct"), "n": list(range(8))})
    path = write_parquet(tmp_path / "a.parquet", rows, row_group_size=2)
    asked, read_range = [], workers.shards.read_range

    def counted(source: Any, start: int, length: int, options: Any) -> bytes:
        asked.append(length)
        return read_range(source, start, length, options)

    monkeypatch.setattr(workers.shards, "read_range", counted)
    table = list_parquets(list_source(SourceSection(uri=str(path))), {}, None, None)
    assert table.num_rows == 8
    assert 0 < sum(asked) < path.stat().st_size / 3
