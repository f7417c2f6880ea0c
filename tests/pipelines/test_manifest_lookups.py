"""Looking up what a manifest names: each object's own trouble is its own failure; a store's ends the plan."""

import hashlib
import http.server
import os
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StoreError
from pipelines.recipe_sections import SourceSection, Storage
from pipelines.sources import list_source
from workers.objects import ObjectError, fetch
from workers.source import Source

DENIED = "denied"  # objects of which the store says 403


@dataclass
class Bucket:
    """An S3 server of one bucket, `b`: objects by key, and the code that every other answer has."""

    endpoint: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    refuses_all: str = ""

    def answer(self, key: str) -> tuple[int, bytes]:
        if self.refuses_all or DENIED in key:
            return 403, f"<Error><Code>{self.refuses_all or 'AccessDenied'}</Code></Error>".encode()
        if key in self.objects:
            return 200, self.objects[key]
        return 404, b"<Error><Code>NoSuchKey</Code></Error>"


@pytest.fixture
def bucket(monkeypatch) -> Iterator[Bucket]:
    held = Bucket()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_HEAD(self, with_body: bool = False) -> None:
            key = urllib.parse.unquote(self.path.split("?")[0]).removeprefix("/b/")
            status, content = held.answer(key)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
            self.send_header("Last-Modified", formatdate(0, usegmt=True))
            self.send_header("Connection", "close")
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def do_GET(self) -> None:
            self.do_HEAD(with_body=True)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    held.endpoint = f"http://127.0.0.1:{server.server_port}"
    for name, value in {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    yield held
    server.shutdown()
    serving.join()
    server.server_close()


def named(folder: Path, *entries: str, **section: Any) -> list[dict[str, Any]]:
    """What a manifest of these names is listed as."""
    quoted = "".join('"{}"\n'.format(entry.replace('"', '""')) for entry in entries)
    (folder / "list.csv").write_bytes(f"uri\n{quoted}".encode())
    rows: list[dict[str, Any]] = list_source(SourceSection(manifest=str(folder / "list.csv"), **section)).to_pylist()
    return rows


def on(bucket: Bucket) -> Storage:
    return Storage(endpoint_url=bucket.endpoint)


def codes(rows: list[dict[str, Any]]) -> list[str | None]:
    return [row["problem"] and row["problem"]["code"] for row in rows]


# Local


def test_a_name_that_no_file_can_have_and_a_link_to_itself_fail_alone(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"1")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    rows = named(tmp_path, "a.wav", "x" * 300 + ".wav", "loop.wav", "none.wav")
    assert codes(rows) == [None, "source_missing", "source_missing", None]
    assert [row["size_bytes"] for row in rows] == [1, 0, 0, 0]
    assert rows[2]["problem"]["message"].startswith(str(tmp_path / "loop.wav"))


def special_file(kind: str, path: Path) -> None:
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["named pipe", "socket", "folder", "device"])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    special_file(kind, Path("s.wav"))
    [row] = named(tmp_path, "s.wav")
    with pytest.raises(ObjectError, match=f"is a {kind}") as caught:
        fetch(Source(row["uri"], None, row["size_bytes"], row["modified_ns"]), {})
    assert caught.value.code == "source_refused"


# S3


def test_an_object_that_may_not_be_read_fails_alone_and_says_what_else_it_may_mean(bucket, tmp_path):
    bucket.objects["ok.wav"] = b"1"
    rows = named(tmp_path, "s3://b/ok.wav", "s3://b/denied.wav", "s3://b/none.wav", storage=on(bucket))
    assert codes(rows) == [None, "fetch_failed", None]
    message = rows[1]["problem"]["message"]
    assert all(part in message for part in ("s3://b/denied.wav", "403", "missing object"))


def test_a_store_that_takes_the_credentials_for_nothing_ends_the_plan(bucket, tmp_path):
    bucket.refuses_all = "SignatureDoesNotMatch"
    with pytest.raises(StoreError, match=r"s3://b refuses the credentials \(SignatureDoesNotMatch\).*AWS_ACCESS_KEY"):
        named(tmp_path, *(f"s3://b/{number}.wav" for number in range(20)), storage=on(bucket))


def test_a_store_that_refuses_every_object_ends_the_plan(bucket, tmp_path):
    with pytest.raises(StoreError, match=r"none of the 20 objects that .*list\.csv names can be read"):
        named(tmp_path, *(f"s3://b/denied/{number}.wav" for number in range(20)), storage=on(bucket))


@pytest.mark.parametrize(
    "key",
    [
        "x//y.wav",
        "/lead.wav",
        "./x.wav",
        "a/./b.wav",
        "a/../b.wav",
        "new\nline.wav",
        "tab\t.wav",
        "\x7f.wav",
        "a b#?.wav",
    ],
)
def test_an_object_of_any_key_is_looked_up_and_read(bucket, tmp_path, key):
    bucket.objects[key] = key.encode()
    [row] = named(tmp_path, f"s3://b/{key}", storage=on(bucket))
    assert (row["etag"], row["size_bytes"]) == (hashlib.md5(key.encode()).hexdigest(), len(key))
    source = Source(row["uri"], row["etag"], row["size_bytes"], row["modified_ns"])
    assert fetch(source, on(bucket).options()).content == key.encode()


def test_a_key_that_ends_as_a_folder_is_not_taken_for_the_object_of_that_name(bucket, tmp_path):
    bucket.objects["a"] = b"1"
    [row] = named(tmp_path, "s3://b/a/", storage=on(bucket))
    assert (row["etag"], row["size_bytes"]) == (None, 0)
