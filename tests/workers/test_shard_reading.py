"""Members of shards are read as they were put in, in order and once, or come with the reason why not."""

import glob
import gzip
import io
import os
import random
import tarfile
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.failures import CODES
from workers import loading, objects, readers, shards
from workers.loading import SourceSettings, load_ahead, read_together
from workers.objects import Fetched, ObjectError
from workers.recording import Recording
from workers.shards import read_neighbours, read_piece, shard_of
from workers.source import Place, Source

SETTINGS = SourceSettings((), 1 << 30)
ANYTHING = 1 << 30


def noise(number: int, size: int) -> bytes:
    """Bytes that no other member has, and that no compression makes fewer."""
    return random.Random(number).randbytes(size)


def tar_bytes(contents: list[bytes], gaps: list[int] | None = None) -> bytes:
    """A tar of n.wav, each after a picture of as many bytes as its gap says, if any."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number, content in enumerate(contents):
            if gaps and gaps[number]:
                add(tar, f"{number}.png", bytes(gaps[number]))
            add(tar, f"{number}.wav", content)
    return out.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def version(uri: str, size: int) -> Source:
    """The shard as it is now."""
    return Source(uri, None, size, None if "://" in uri else os.stat(uri).st_mtime_ns)


def write(uri: str, content: bytes) -> Source:
    with fsspec.open(uri, "wb") as file:
        file.write(content)
    return version(uri, len(content))


def member(shard: Source, name: str, size: int, piece: int | None, offset: int) -> Source:
    place = Place(shard.uri, shard.size_bytes, piece, offset)
    return Source(f"{shard.uri}#{name}", shard.etag, size, shard.modified_ns, place)


def write_tar(uri: str, contents: list[bytes], gaps: list[int] | None = None) -> list[Source]:
    """Write a tar, gzipped where the name says so; return its audio as it would be planned."""
    plain = tar_bytes(contents, gaps)
    gzipped = shards.is_gzipped(uri)
    shard = write(uri, gzip.compress(plain, 1) if gzipped else plain)
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        return [
            member(shard, entry.name, entry.size, 0 if gzipped else None, number if gzipped else entry.offset_data)
            for number, entry in enumerate(tar)
            if entry.name.endswith(".wav")
        ]


def write_parquet(uri: str, contents: list[bytes | None], kind: str = "struct", group_rows: int = 1000) -> list[Source]:
    values = pa.array(contents, pa.binary())
    column = pa.StructArray.from_arrays([values], ["bytes"]) if kind == "struct" else values
    out = io.BytesIO()
    pq.write_table(pa.table({"text": ["x"] * len(contents), "audio": column}), out, row_group_size=group_rows)
    shard = write(uri, out.getvalue())
    rows = range(len(contents))
    return [member(shard, str(row), 10, row // group_rows, row % group_rows) for row in rows]


def recordings(sources: list[Source]) -> list[Recording]:
    return [Recording(source.uri, source, ["base"], []) for source in sources]


def said(outcome: Fetched | ObjectError) -> bytes | str:
    """The content, or the code of why there is none."""
    if isinstance(outcome, ObjectError):
        assert outcome.code in CODES
        assert outcome.message
        return outcome.code
    try:
        return outcome.content if outcome.path is None else Path(outcome.path).read_bytes()
    finally:
        outcome.release()


def loaded(sources: list[Source], settings: SourceSettings = SETTINGS) -> list[bytes | str]:
    """What loading gives for each, after checking that each comes once and in order."""
    found = list(load_ahead(recordings(sources), settings))
    assert [recording.source for recording, _ in found] == sources
    return [said(outcome) for _, outcome in found]


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    """Private copies of other tests, which may run at once, lie elsewhere."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def spools() -> set[str]:
    return set(glob.glob(os.path.join(tempfile.gettempdir(), "phonolake-*")))


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(objects.time, "sleep", lambda seconds: None)


@pytest.fixture
def short_spool(monkeypatch):
    monkeypatch.setattr(objects, "SPOOL_BYTES", 1000)
    monkeypatch.setattr(shards, "SPOOL_BYTES", 1000)


@pytest.fixture
def in_memory() -> Iterator[str]:
    yield "memory://reading"
    fsspec.filesystem("memory").rm("/reading", recursive=True)


# What was put in comes out

SIZES = st.lists(st.one_of(st.just(0), st.integers(1, 3000), st.integers(60_000, 70_000)), min_size=1, max_size=12)


@st.composite
def shards_in_progress(draw) -> tuple[list[bytes], list[int], list[int]]:
    """Contents of members, gaps before them, and which are left to do."""
    contents = [noise(number, size) for number, size in enumerate(draw(SIZES))]
    count = len(contents)
    gaps = draw(st.lists(st.sampled_from([0, 1, 600, 5000, 70_000]), min_size=count, max_size=count))
    left = draw(st.sets(st.integers(0, count - 1), min_size=1))
    return contents, gaps, sorted(left)


@pytest.mark.parametrize("shard", ["a.tar", "a.tar.gz", "a.tgz"])
@settings(max_examples=40)
@given(made=shards_in_progress(), limit=st.sampled_from([1, 2000, 100_000, 4 << 20]), remote=st.booleans())
def test_what_is_left_of_a_tar_is_read_as_it_was_put_in_and_in_order(shard, made, limit, remote):
    contents, gaps, left = made
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "NEIGHBOURS_BYTES", limit)
        uri = f"memory://reading-{os.getpid()}/{shard}" if remote else f"{folder}/{shard}"
        members = write_tar(uri, contents, gaps)
        assert loaded([members[number] for number in left]) == [contents[number] for number in left]


@pytest.mark.parametrize("kind", ["struct", "binary"])
@settings(max_examples=40)
@given(made=shards_in_progress(), group_rows=st.integers(1, 13))
def test_what_is_left_of_a_parquet_file_is_read_as_it_was_put_in_and_in_order(kind, made, group_rows):
    contents, _, left = made
    with tempfile.TemporaryDirectory() as folder:
        members = write_parquet(f"{folder}/a.parquet", contents, kind, group_rows)
        assert loaded([members[number] for number in left]) == [contents[number] for number in left]


@pytest.mark.parametrize("shard", ["a.tar", "a.tar.gz"])
def test_every_member_comes_with_its_size_and_digest(tmp_path, shard):
    contents = [noise(number, 1000 * number) for number in range(5)]
    for content, (_, fetched) in zip(
        contents, load_ahead(recordings(write_tar(f"{tmp_path}/{shard}", contents)), SETTINGS), strict=True
    ):
        assert (fetched.size_bytes, fetched.sha256) == (len(content), objects.hashlib.sha256(content).hexdigest())
        assert not fetched.has_changed()


def test_shards_of_all_kinds_and_loose_files_follow_one_another_in_one_list(tmp_path):
    loose = tmp_path / "loose.wav"
    loose.write_bytes(b"loose")
    contents = [noise(number, 5000) for number in range(6)]
    sources = [
        *(version(str(loose), 5), *write_tar(f"{tmp_path}/a.tar", contents), version(str(loose), 5)),
        *(*write_tar(f"{tmp_path}/b.tar.gz", contents), *write_parquet(f"{tmp_path}/c.parquet", contents, "struct", 2)),
        *write_tar(f"{tmp_path}/d.tar", contents),
    ]
    assert loaded(sources) == [b"loose", *contents, b"loose", *contents, *contents, *contents]


def test_remote_tars_are_read_in_order_however_many_requests_are_in_flight(in_memory):
    contents = [noise(number, 200 + number) for number in range(60)]
    members = write_tar(f"{in_memory}/a.tar", contents, [70_000] * 60)  # too far apart to be read together
    assert len(list(read_together(recordings(members)))) == 60
    assert loaded(members) == contents


# How it is read


def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Note every range that is asked for."""
    asked, read_range = [], objects.read_range

    def noted(source: Source, start: int, length: int, options: Any) -> bytes:
        asked.append((start, length))
        return read_range(source, start, length, options)

    for module in (objects, shards):
        monkeypatch.setattr(module, "read_range", noted)
    return asked


def test_neighbours_in_a_tar_are_read_with_one_request(tmp_path, monkeypatch):
    contents = [noise(number, 3000) for number in range(20)]
    members = write_tar(f"{tmp_path}/a.tar", contents, [200] * 20)
    asked = requests(monkeypatch)
    assert loaded(members) == contents
    first, last = members[0].place, members[-1]
    assert asked == [(first.offset, last.place.offset + last.size_bytes - first.offset)]


def test_what_lies_far_apart_is_read_alone(tmp_path, monkeypatch):
    contents = [noise(number, 300) for number in range(3)]
    members = write_tar(f"{tmp_path}/a.tar", contents, [0, loading.NEIGHBOURS_GAP + 1, 0])
    asked = requests(monkeypatch)
    assert loaded(members) == contents
    assert len(asked) == 2
    assert sum(length for _, length in asked) < 5000


@given(made=shards_in_progress(), more=shards_in_progress(), limit=st.sampled_from([1, 2000, 100_000]))
@settings(max_examples=40)
def test_what_is_read_together_is_of_one_shard_in_order_and_no_more_than_allowed(made, more, limit):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "NEIGHBOURS_BYTES", limit)
        planned = []
        for shard, (contents, gaps, left) in (("a.tar", made), ("b.tar.gz", made), ("c.tar", more), ("d.tar", made)):
            members = write_tar(f"{folder}/{shard}", contents, gaps)
            planned += recordings([members[number] for number in left])
        batches = list(read_together(planned))
    assert [one for batch in batches for one in batch] == planned
    assert len([batch for batch in batches if batch[0].source.place.piece is not None]) == 1
    for batch in batches:
        assert len({(one.source.place.shard, one.source.place.piece) for one in batch}) == 1
        first, last = batch[0].source, batch[-1].source
        assert (
            first.place.piece is not None
            or len(batch) == 1
            or last.place.offset + last.size_bytes - first.place.offset <= limit
        )


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note every tar that is opened to be read from its beginning."""
    seen, open_tar = [], shards.open_tar

    def noted(shard: Source, options: Any, buffer_bytes: int) -> Any:
        seen.append(shard.uri)
        return open_tar(shard, options, buffer_bytes)

    monkeypatch.setattr(shards, "open_tar", noted)
    return seen


def test_a_gzipped_tar_is_read_once_for_all_its_members(tmp_path, monkeypatch):
    members = write_tar(f"{tmp_path}/a.tar.gz", [noise(number, 300) for number in range(30)])
    seen = opened(monkeypatch)
    assert loaded(members[3:20:2]) == [noise(number, 300) for number in range(3, 20, 2)]
    assert len(seen) == 1


def test_a_gzipped_tar_is_read_once_also_where_some_of_it_is_refused(tmp_path, monkeypatch):
    planned = recordings(write_tar(f"{tmp_path}/a.tar.gz", [noise(number, 300) for number in range(9)]))
    for number in (0, 3, 5):
        planned[number] = Recording(
            planned[number].recording_id, planned[number].source, ["base"], [], None, ("source_refused", "a link")
        )
    seen = opened(monkeypatch)
    found = {recording.source.uri: said(outcome) for recording, outcome in load_ahead(planned, SETTINGS)}
    assert found == {
        one.source.uri: "source_refused" if number in (0, 3, 5) else noise(number, 300)
        for number, one in enumerate(planned)
    }
    assert len(seen) == 1


def test_a_gzipped_tar_of_which_all_that_is_planned_is_refused_is_not_read(tmp_path, monkeypatch):
    planned = [
        Recording(one.recording_id, one.source, ["base"], [], None, ("source_refused", "a link"))
        for one in recordings(write_tar(f"{tmp_path}/a.tar.gz", [noise(number, 300) for number in range(3)]))
    ]
    seen = opened(monkeypatch)
    refused = [(found.code, found.message) for _, found in load_ahead(planned, SETTINGS)]
    assert refused == [("source_refused", "a link")] * 3
    assert not seen


def test_nothing_is_read_behind_the_last_member_that_is_wanted(tmp_path, monkeypatch):
    contents = [noise(number, 1 << 20) for number in range(12)]
    members = write_tar(f"{tmp_path}/a.tar.gz", contents)
    monkeypatch.setattr(shards, "STREAM_BUFFER", 1 << 16)
    asked = requests(monkeypatch)
    assert loaded(members[:1]) == contents[:1]
    assert 0 < sum(length for _, length in asked) < 3 << 20


def test_a_problem_found_by_planning_is_told_and_nothing_is_read(tmp_path):
    source = Source(f"{tmp_path}/nowhere.tar#a.wav", None, 0, None, Place(f"{tmp_path}/nowhere.tar", 9, None, 0))
    recording = Recording("r", source, ["base"], [], None, ("source_refused", "it leads out"))
    [(_, outcome)] = load_ahead([recording], SETTINGS)
    assert (outcome.code, outcome.message) == ("source_refused", "it leads out")


# Shards that are not any more what was planned

KINDS = ["a.tar", "a.tar.gz", "a.parquet"]


def write_shard(uri: str, contents: list[bytes]) -> list[Source]:
    return write_parquet(uri, contents) if shards.is_parquet(uri) else write_tar(uri, contents)


@pytest.mark.parametrize("shard", KINDS)
@pytest.mark.parametrize("count", [1, 4])
def test_a_shard_that_changed_since_it_was_planned_gives_none_of_its_members(tmp_path, shard, count):
    path = tmp_path / shard
    members = write_shard(str(path), [noise(number, 3000) for number in range(4)])[:count]
    write_shard(str(path), [noise(number + 9, 3000) for number in range(4)])
    os.utime(path, ns=(1, 1))
    assert loaded(members) == ["source_changed"] * count


@pytest.mark.parametrize("shard", KINDS)
@pytest.mark.parametrize("count", [1, 4])
def test_a_shard_that_is_gone_gives_none_of_its_members(tmp_path, shard, count):
    path = tmp_path / shard
    members = write_shard(str(path), [noise(number, 3000) for number in range(4)])[:count]
    path.unlink()
    assert loaded(members) == ["source_missing"] * count


@pytest.mark.parametrize("shard", KINDS)
def test_a_shard_that_cannot_be_reached_is_not_said_to_be_damaged(tmp_path, shard, monkeypatch, no_pauses):
    members = write_shard(f"{tmp_path}/{shard}", [noise(number, 3000) for number in range(3)])

    def hang_up(*_: Any) -> Iterator[bytes]:
        raise ConnectionResetError("the store hung up")

    monkeypatch.setattr(readers._LocalReader, "chunks", hang_up)
    found = list(load_ahead(recordings(members), SETTINGS))
    assert [outcome.code for _, outcome in found] == ["fetch_failed"] * 3
    assert all("hung up" in outcome.message for _, outcome in found)


def test_where_neighbours_cannot_be_read_together_each_is_tried_alone(tmp_path, monkeypatch):
    contents = [noise(number, 3000) for number in range(3)]
    members = write_tar(f"{tmp_path}/a.tar", contents)

    def fail(*_: Any) -> bytes:
        raise ObjectError("fetch_failed", "not now")

    monkeypatch.setattr(shards, "read_range", fail)
    assert [said(outcome) for outcome in read_neighbours(members, {})] == contents


@pytest.mark.parametrize("part", [0.05, 0.4, 0.8, 0.97])
def test_what_lies_before_the_damage_of_a_gzipped_tar_is_read_and_the_rest_is_told(tmp_path, part):
    path, contents = tmp_path / "a.tar.gz", [noise(number, 20_000) for number in range(8)]
    members = write_tar(str(path), contents)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    shard = version(str(path), path.stat().st_size)
    planned = [member(shard, one.uri.partition("#")[2], one.size_bytes, 0, one.place.offset) for one in members]
    found = loaded(planned)
    good = found.index("shard_damaged")
    assert found == [*contents[:good], *["shard_damaged"] * (8 - good)]
    assert abs(good - 8 * part) <= 1


@pytest.mark.parametrize("byte", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("garbage", [b"\xff" * 40, b"\x55" * 40], ids=["ff", "55"])
def test_garbage_in_the_middle_of_a_gzipped_tar_leaves_what_lies_before_it_and_answers_for_every_member(
    tmp_path, byte, garbage
):
    path, contents = tmp_path / "a.tar.gz", [b"%d" % number * 90_000 for number in range(8)]
    members = write_tar(str(path), contents)
    content = bytearray(path.read_bytes())
    start = int(len(content) * byte)
    content[start : start + 40] = garbage
    path.write_bytes(content)
    shard = version(str(path), len(content))
    found = loaded([member(shard, one.uri.partition("#")[2], 90_000, 0, one.place.offset) for one in members])
    before = int(8 * byte) - 1
    assert found[:before] == contents[:before]
    assert found != contents


@pytest.mark.parametrize("shard", ["a.tar.gz", "a.parquet"])
def test_a_piece_that_ends_before_a_member_says_so(tmp_path, shard):
    members = write_shard(f"{tmp_path}/{shard}", [b"1", b"2"])
    beyond = member(shard_of(members[0]), "9", 1, 0, 9)
    first, second, third = read_piece([*members, beyond], {}, None, ANYTHING)
    assert [said(first), said(second), said(third)] == [b"1", b"2", "shard_damaged"]
    assert "ends before" in third.message


def test_a_parquet_file_with_fewer_row_groups_than_were_planned_is_damaged_for_those(tmp_path):
    members = write_parquet(f"{tmp_path}/a.parquet", [b"1", b"2"])
    behind = [member(shard_of(members[0]), str(row), 1, 7, row) for row in range(2)]
    assert loaded([*members, *behind]) == [b"1", b"2", "shard_damaged", "shard_damaged"]


@pytest.mark.parametrize("content", [b"", b"PAR1" * 10, b"no parquet"])
def test_a_parquet_file_that_is_none_is_damaged_for_all_its_rows(tmp_path, content):
    shard = write(f"{tmp_path}/a.parquet", content)
    assert loaded([member(shard, str(row), 1, 0, row) for row in range(2)]) == ["shard_damaged"] * 2


def test_a_row_without_audio_is_empty_and_its_neighbours_are_read(tmp_path):
    for kind in ("struct", "binary"):
        members = write_parquet(f"{tmp_path}/{kind}.parquet", [b"1", None, b"", b"2"], kind)
        assert loaded(members) == [b"1", "empty", b"", b"2"]


def test_a_row_that_is_null_as_a_whole_is_empty(tmp_path):
    column = pa.array([{"bytes": b"1", "path": "a"}, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    out = io.BytesIO()
    pq.write_table(pa.table({"audio": column}), out)
    shard = write(f"{tmp_path}/a.parquet", out.getvalue())
    assert loaded([member(shard, str(row), 1, 0, row) for row in range(2)]) == [b"1", "empty"]


def test_the_named_column_of_a_parquet_file_is_read(tmp_path):
    out = io.BytesIO()
    pq.write_table(pa.table({"left": [b"1"], "right": [b"2"]}), out)
    shard = write(f"{tmp_path}/a.parquet", out.getvalue())
    for column, content in (("left", b"1"), ("right", b"2")):
        assert loaded([member(shard, "0", 1, 0, 0)], SourceSettings((), 100, column)) == [content]


# Members without bytes, and big ones


@pytest.mark.parametrize("shard", ["a.tar", "a.tar.gz"])
def test_a_member_without_bytes_is_read_alone_and_among_others(tmp_path, shard):
    members = write_tar(f"{tmp_path}/{shard}", [b"", b"1", b"", b""])
    assert loaded(members) == [b"", b"1", b"", b""]
    for one in (members[0], members[3]):
        assert loaded([one]) == [b""]
    assert loaded(members[2:]) == [b"", b""]


@pytest.mark.parametrize("shard", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("remote", [False, True])
def test_a_long_member_goes_through_a_private_file_until_it_is_released(
    tmp_path, shard, remote, in_memory, short_spool
):
    contents = [noise(0, 300), noise(1, 3 << 19), noise(2, 300)]
    before = spools()
    members = write_tar(f"{in_memory if remote else tmp_path}/{shard}", contents, [0, 70_000, 70_000])
    fsspec.filesystem("memory").pipe("/reading/there", b"")
    small, big, other = (outcome for _, outcome in load_ahead(recordings(members), SETTINGS))
    assert (small.content, other.content) == (contents[0], contents[2])
    assert (big.content, big.size_bytes) == (b"", len(contents[1]))
    assert big.sha256 == objects.hashlib.sha256(contents[1]).hexdigest()
    assert Path(big.path).read_bytes() == contents[1]
    assert os.stat(big.path).st_mode & 0o077 == 0
    assert not big.has_changed()
    big.release()
    assert not os.path.exists(big.path)
    assert spools() == before


def test_a_long_member_of_a_gzipped_tar_that_ends_within_it_is_damaged_and_leaves_no_private_file(
    tmp_path, short_spool, no_pauses
):
    path = tmp_path / "a.tar.gz"
    write_tar(str(path), [noise(0, 300), noise(1, 1 << 20), noise(2, 300)])
    path.write_bytes(path.read_bytes()[: 1 << 19])
    shard = version(str(path), 1 << 19)
    before = spools()
    found = list(load_ahead(recordings([member(shard, str(number), 300, 0, number) for number in range(3)]), SETTINGS))
    assert [said(outcome) for _, outcome in found] == [noise(0, 300), "shard_damaged", "shard_damaged"]
    assert spools() == before


@pytest.mark.parametrize("code", ["source_changed", "fetch_failed"])
def test_a_long_member_whose_shard_fails_halfway_is_whole_or_fails_with_the_shards_own_code(
    tmp_path, short_spool, no_pauses, monkeypatch, code
):
    contents = [noise(0, 300), noise(1, 3 << 20), noise(2, 300)]
    members = write_tar(f"{tmp_path}/a.tar.gz", contents)
    monkeypatch.setattr(shards, "STREAM_BUFFER", 1 << 12)
    read_range, failed = shards.read_range, []

    def fail_once(source: Source, start: int, length: int, options: Any) -> bytes:
        if start > 2 * shards.COPY_BYTES and not failed:
            failed.append(start)
            raise ObjectError(code, "the shard is not delivered")
        return read_range(source, start, length, options)

    monkeypatch.setattr(shards, "read_range", fail_once)
    first, second, third = loaded(members)
    assert failed
    assert first == contents[0]
    assert second in (contents[1], code)
    assert third in (contents[2], code)


def test_members_of_more_bytes_than_allowed_are_refused_and_their_neighbours_are_read(tmp_path):
    contents = [noise(0, 900), noise(1, 1001), noise(2, 1000), noise(3, 5000)]
    expected = [contents[0], "limit_bytes", contents[2], "limit_bytes"]
    settings = SourceSettings((), 1000)
    for shard in ("a.tar.gz", "a.parquet", "a.tar"):
        members = write_shard(f"{tmp_path}/{shard}", contents)
        assert loaded(members, settings) == expected, shard
        assert [loaded([one], settings)[0] for one in members] == expected, shard


# Memory


def peak_bytes(act: Any) -> int:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def arrow_peak(act: Any) -> int:
    """The most that Arrow held while something was done, in bytes."""
    before, most, done = pa.total_allocated_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, pa.total_allocated_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        act()
    finally:
        done.set()
        watcher.join()
    return most


def test_a_row_group_that_unpacks_to_far_more_than_allowed_is_refused_unread(tmp_path):
    members = write_shard(f"{tmp_path}/a.parquet", [bytes([number]) * (40 << 20) for number in range(4)])
    assert os.path.getsize(tmp_path / "a.parquet") < 10 << 20
    found: list[Any] = []
    held = arrow_peak(lambda: found.extend(read_piece(members, {}, None, 1 << 20)))
    assert [(error.code, error.message.count("limits.max_bytes")) for error in found] == [("limit_bytes", 1)] * 4
    assert held < 1 << 20


def test_long_rows_of_a_row_group_are_unpacked_one_by_one(tmp_path, monkeypatch):
    rows: list[int] = []
    iter_batches = pq.ParquetFile.iter_batches

    def noted(self: pq.ParquetFile, batch_size: int, **options: Any) -> Any:
        rows.append(batch_size)
        return iter_batches(self, batch_size, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    for size, at_once in ((1 << 20, 8), (5 << 20, 3), (20 << 20, 1)):
        contents = [noise(number, size) for number in range(4)]
        members = write_shard(f"{tmp_path}/{size}.parquet", contents)
        assert loaded(members) == contents
        assert rows.pop() == at_once


class Zeros(io.RawIOBase):
    """As many zeros as one likes."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        buffer[:] = bytes(len(buffer))
        return len(buffer)


@pytest.mark.parametrize("wanted", [[0, 1, 2], [2]])
def test_a_member_larger_than_memory_is_never_held_in_it(tmp_path, monkeypatch, wanted):
    size, path = 96 << 20, tmp_path / "a.tar.gz"
    monkeypatch.setattr(shards, "SPOOL_BYTES", 8 << 20)
    with gzip.open(path, "wb", 1) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, length in (("0", 10), ("1", size), ("2", 20)):
            entry = tarfile.TarInfo(name)
            entry.size = length
            tar.addfile(entry, io.BufferedReader(Zeros()))
    shard = version(str(path), path.stat().st_size)
    members = [member(shard, str(number), 10, 0, number) for number in wanted]
    sizes = []

    def read() -> None:
        for outcome in read_piece(members, {}, None, ANYTHING):
            sizes.append(outcome.size_bytes)
            outcome.release()

    assert peak_bytes(read) < 32 << 20
    assert sizes == [[10, size, 20][number] for number in wanted]


def header(name: str, size: int, kind: bytes) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("shard", ["a.tar", "a.tar.gz"])
def test_a_header_that_claims_gigabytes_for_itself_is_damage_and_costs_no_memory(tmp_path, shard, kind):
    plain = header("0.wav", 3, tarfile.REGTYPE) + b"one".ljust(512, b"\0") + header("x", 3 << 30, kind) + bytes(2048)
    path = tmp_path / shard
    path.write_bytes(gzip.compress(plain) if shard.endswith(".gz") else plain)
    version_now = version(str(path), path.stat().st_size)
    seen: list[str] = []

    def walk() -> None:
        with shards.open_tar(version_now, {}, 1 << 16) as tar:
            seen.extend(entry.name for entry in shards.entries(tar))

    def attempt() -> None:
        with pytest.raises(tarfile.ReadError, match="claims"):
            walk()

    assert peak_bytes(attempt) < 32 << 20
    assert seen == ["0.wav"]
    if shard.endswith(".gz"):
        assert loaded([member(version_now, str(number), 3, 0, number) for number in range(2)]) == [
            b"one",
            "shard_damaged",
        ]


def test_a_walk_through_many_members_keeps_none_of_them(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([b""] * 20_000))
    shard = version(str(path), path.stat().st_size)

    def walk() -> None:
        with shards.open_tar(shard, {}, 1 << 16) as tar:
            assert sum(1 for _ in shards.entries(tar)) == 20_000

    assert peak_bytes(walk) < 4 << 20
