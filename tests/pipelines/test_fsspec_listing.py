"""Listing stores that only fsspec reaches: nothing is left out in silence, and versions are what the store tells."""

import hashlib
import http.server
import threading
import urllib.parse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, ClassVar
from xml.sax.saxutils import escape

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipelines.doctor.stores import check_source
from pipelines.errors import RecipeError, StoreError
from pipelines.recipe_sections import SourceSection, Storage
from pipelines.sources import list_source
from schemas.ids import recording_id
from workers.objects import ObjectError, fetch
from workers.source import Source
from workers.stores import time_of

FILES = ("a.wav", "deep/b.wav", "deep/er/c.wav")


class Distant(MemoryFileSystem):
    """A store on a host, as sftp:// is: what it lists does not name the host; folders may be refused or go away."""

    protocol = "distant"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    refused: ClassVar[dict[str, Exception]] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        _, far, rest = path.partition("://")
        return super()._strip_protocol("/" + rest.partition("/")[2] if far else path)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        if (error := self.refused.get(self._strip_protocol(path))) is not None:
            raise error
        found: list[Any] = super().ls(path, detail=detail, **options)
        return found


class Untimed(Distant):
    """A store that tells neither etag nor time, nor the length of what is called so."""

    protocol = "untimed"

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        found = [dict(one) for one in super().ls(path, detail=True, **options)]
        for one in found:
            one.pop("created", None)
            if one["name"].endswith("unknown.wav"):
                one["size"] = None
        return found


@pytest.fixture
def distant(monkeypatch) -> type[Distant]:
    monkeypatch.setattr(Distant, "store", {})
    monkeypatch.setattr(Distant, "pseudo_dirs", [""])
    monkeypatch.setattr(Distant, "refused", {})
    for kind in (Distant, Untimed):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)
    Distant.clear_instance_cache()
    for name in FILES:
        fsspec.filesystem("distant").pipe(f"/calls/{name}", name.encode())
    return Distant


def listed(uri: str, **section: Any) -> dict[str, dict[str, Any]]:
    return {row["uri"]: row for row in list_source(SourceSection(uri=uri, **section)).to_pylist()}


def planned(row: dict[str, Any]) -> Source:
    return Source(row["uri"], row["etag"], row["size_bytes"], row["modified_ns"])


def id_of(row: dict[str, Any]) -> str:
    return recording_id("calls", row["uri"], row["etag"], row["size_bytes"], row["modified_ns"])


@pytest.mark.parametrize("uri", ["distant://host/calls", "distant://host/calls/", "distant://host/calls/**"])
def test_every_object_at_any_depth_is_listed_by_a_name_that_reads_it(distant, uri):
    rows = listed(uri)
    assert sorted(rows) == [f"distant://host/calls/{name}" for name in FILES]
    for uri, row in rows.items():
        assert fetch(planned(row), {}).content == uri.removeprefix("distant://host/calls/").encode()


def test_a_single_object_is_a_source(distant):
    assert list(listed("distant://host/calls/deep/b.wav")) == ["distant://host/calls/deep/b.wav"]


def test_the_root_of_a_store_is_a_source(distant):
    assert len(listed("distant://host/")) == len(FILES)
    fsspec.filesystem("memory").pipe("/root-of-memory.wav", b"1")
    try:
        assert "memory://root-of-memory.wav" in listed("memory://", include=("root-of*",))
    finally:
        fsspec.filesystem("memory").rm("/root-of-memory.wav")


@pytest.mark.parametrize("folder", ["/calls", "/calls/deep", "/calls/deep/er"])
@pytest.mark.parametrize("error", [PermissionError("not yours"), TimeoutError(), RuntimeError("its library's own")])
def test_a_folder_that_cannot_be_listed_ends_the_plan_and_leaves_nothing_out(distant, folder, error):
    distant.refused[folder] = error
    with pytest.raises(StoreError, match=f"distant://host/calls could not be listed: .*{error or 'TimeoutError'}"):
        listed("distant://host/calls")


def test_a_folder_that_is_deleted_meanwhile_is_left_out(distant):
    distant.refused["/calls/deep/er"] = FileNotFoundError("/calls/deep/er")
    assert sorted(listed("distant://host/calls")) == [f"distant://host/calls/{name}" for name in FILES[:2]]


def test_a_folder_that_is_not_there_is_refused_with_its_name(distant):
    with pytest.raises(RecipeError, match="there is no object in distant://host/none"):
        listed("distant://host/none")


def test_the_doctor_tells_of_a_folder_that_cannot_be_listed(distant):
    distant.refused["/calls"] = PermissionError("not yours")
    with pytest.raises(StoreError, match="not yours"):
        check_source(SourceSection(uri="distant://host/calls"))


def test_a_length_that_is_not_told_is_refused_with_the_objects_name(distant):
    fsspec.filesystem("untimed").pipe("/calls/unknown.wav", b"1")
    with pytest.raises(RecipeError, match=r"untimed://host/calls/unknown\.wav cannot be read.*how long"):
        listed("untimed://host/calls")


# Versions


@pytest.fixture
def in_memory() -> Iterator[fsspec.AbstractFileSystem]:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/written-again/a.wav", b"a.wav")
    yield filesystem
    filesystem.rm("/written-again", recursive=True)


def test_what_is_written_again_at_the_same_size_is_another_recording_and_noticed_by_who_reads_the_old_one(
    in_memory,
):
    uri = "memory://written-again/a.wav"
    in_memory.pipe("/written-again/list.csv", b"uri\na.wav\n")

    def as_told() -> list[dict[str, Any]]:
        """In each way that leads to the object."""
        [named] = list_source(SourceSection(manifest="memory://written-again/list.csv")).to_pylist()
        return [named, listed(uri)[uri], listed("memory://written-again")[uri]]

    before = as_told()
    assert len({id_of(row) for row in before}) == 1
    in_memory.pipe("/written-again/a.wav", b"A.WAV")
    after = as_told()
    assert len({id_of(row) for row in after}) == 1
    assert id_of(after[0]) != id_of(before[0])
    assert fetch(planned(after[0]), {}).content == b"A.WAV"
    with pytest.raises(ObjectError, match="its modification time is another now") as caught:
        fetch(planned(before[0]), {})
    assert caught.value.code == "source_changed"


def test_a_store_without_times_is_read_all_the_same(distant):
    row = listed("untimed://host/calls")["untimed://host/calls/a.wav"]
    assert (row["etag"], row["modified_ns"]) == (None, None)
    assert fetch(planned(row), {}).content == b"a.wav"


NOON = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
NOON_NS = 1_772_366_400_250_000_000


@pytest.mark.parametrize(
    "info",
    [
        {"mtime": NOON},
        {"mtime": NOON.timestamp()},
        {"LastModified": NOON.astimezone(timezone(timedelta(hours=5)))},
        {"last_modified": NOON.replace(tzinfo=None)},
        {"updated": "2026-03-01T12:00:00.250Z"},
        {"created": "2026-03-01T13:00:00.250+01:00"},
        {"LastModified": "", "mtime": None, "created": NOON},
        {"created": NOON - timedelta(days=1), "modified": NOON},
    ],
)
def test_a_time_is_the_same_however_it_is_told(info):
    assert time_of(info) == NOON_NS


def test_a_time_may_be_told_as_web_servers_do_and_what_is_none_is_none():
    assert time_of({"Last-Modified": "Sun, 01 Mar 2026 12:00:00 GMT"}) == NOON_NS - 250_000_000
    assert time_of({"mtime": 0}) == 0
    assert [time_of(info) for info in ({}, {"mtime": "yesterday"}, {"size": 3})] == [None] * 3


# S3, where a key is one that obstore does not take


class Listing(http.server.BaseHTTPRequestHandler):
    """Enough of S3 to list a bucket `b`, and to say no."""

    keys: tuple[str, ...] = ()
    refusing: int | None = None
    answered = 0
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._send(404, b"")

    def do_GET(self) -> None:
        if self.refusing is not None and type(self).answered >= self.refusing:
            return self._send(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
        type(self).answered += 1
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        objects, folders = "", set()
        for key in (key for key in self.keys if key.startswith(prefix)):
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if cut:
                folders.add(prefix + head + cut)
            else:
                tag, size = hashlib.md5(key.encode()).hexdigest(), 0 if key[-1] == "/" else len(key)
                objects += (
                    f"<Contents><Key>{escape(key)}</Key><LastModified>2026-03-01T12:00:00.000Z</LastModified>"
                    f"<ETag>&quot;{tag}&quot;</ETag><Size>{size}</Size></Contents>"
                )
        prefixes = "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in folders)
        body = f"<Name>b</Name><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated>{objects}{prefixes}"
        self._send(200, f'<?xml version="1.0"?><ListBucketResult>{body}</ListBucketResult>'.encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def s3(monkeypatch) -> Iterator[tuple[type[Listing], Storage]]:
    handler = type("OneBucket", (Listing,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, args=(0.02,))
    serving.start()
    for name, value in {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    yield handler, Storage(endpoint_url=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    serving.join()
    server.server_close()


ODD = ("x/a.wav", "x//b.wav", "x//deep//c.wav", "x/./d.wav", "/lead.wav", "x/e.wav")


def test_a_bucket_with_keys_that_have_empty_parts_is_listed_whole(s3):
    handler, storage = s3
    handler.keys = (*ODD, "x/")  # what consoles make to stand for a folder
    rows = listed("s3://b", storage=storage)
    assert sorted(rows) == sorted(f"s3://b/{key}" for key in ODD)
    for uri, row in rows.items():
        key = uri.removeprefix("s3://b/")
        assert (row["etag"], row["size_bytes"]) == (hashlib.md5(key.encode()).hexdigest(), len(key))
        assert row["modified_ns"] == NOON_NS - 250_000_000
    assert sorted(listed("s3a://b/x/**", storage=storage)) == sorted(f"s3a://b/{key}" for key in ODD if key[0] == "x")


def test_a_refusal_ends_the_listing_of_such_a_bucket(s3):
    handler, storage = s3
    handler.keys = ODD
    listed("s3://b", storage=storage)
    for refusing in range(handler.answered):
        handler.answered, handler.refusing = 0, refusing
        with pytest.raises(StoreError, match="s3://b"):
            listed("s3://b", storage=storage)
