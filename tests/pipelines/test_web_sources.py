"""Reading from web servers: single files and what a manifest names, whatever the servers leave out of their answers."""

import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from pipelines import fsspec_listing
from pipelines.doctor.stores import check_source
from pipelines.errors import RecipeError, StoreError
from pipelines.recipe_sections import SourceSection, Storage
from pipelines.sources import list_source
from workers import objects
from workers.objects import ObjectError, fetch
from workers.source import Place, Source

CONTENT = bytes(range(256)) * 40_000  # 10 MB, more than one of fsspec's blocks


@dataclass
class Site:
    """A web server: files by path, their time, and what else it does."""

    files: dict[str, bytes] = field(default_factory=dict)
    seconds: int = 1_700_000_000
    gives_parts: bool = False
    tells_length: bool = True
    tells_time: bool = True
    knows_head: bool = True
    statuses: list[int] = field(default_factory=list)  # of the next answers
    address: str = ""


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    held = Site({"/a.wav": CONTENT, "/b.wav": b"1234", "/page/": b'<a href="a.wav">a</a>'})

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            if held.knows_head:
                self.answer(with_body=False)
            else:
                self.send_error(405)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            status = 200 if path in held.files else 403 if path.startswith("/denied") else 404
            status = held.statuses.pop(0) if held.statuses else status
            if path == "/page":
                self.send_response(301)
                self.send_header("Location", "/page/")
                self.end_headers()
                return
            if status != 200:
                self.send_error(status)
                return
            content, asked = held.files[path], self.headers.get("Range")
            if asked and held.gives_parts:
                first, last = map(int, asked.removeprefix("bytes=").split("-"))
                content, status = content[first : last + 1], 206
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if path.endswith("/") else "audio/wav")
            if held.tells_length:
                self.send_header("Content-Length", str(len(content)))
            if held.tells_time:
                self.send_header("Last-Modified", formatdate(held.seconds, usegmt=True))
            self.end_headers()
            if with_body:
                with suppress(ConnectionError):  # who asks for the headers only hangs up
                    self.wfile.write(content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, args=(0.02,))
    serving.start()
    held.address = f"http://127.0.0.1:{server.server_port}"
    for module in (fsspec_listing.time, objects.time):
        monkeypatch.setattr(module, "sleep", lambda seconds: None)
    yield held
    server.shutdown()
    serving.join()
    server.server_close()


def named(folder: Path, *uris: str, **section: Any) -> list[dict[str, Any]]:
    """What a manifest of these addresses is listed as."""
    (folder / "list.csv").write_text("\n".join(["uri", *uris]))
    source = SourceSection(manifest=str(folder / "list.csv"), allow=("http",), **section)
    rows: list[dict[str, Any]] = list_source(source).to_pylist()
    return rows


def planned(row: dict[str, Any]) -> Source:
    place = Place(**row["place"]) if row["place"] else None
    return Source(row["uri"], row["etag"], row["size_bytes"], row["modified_ns"], place)


@pytest.mark.parametrize("query", ["", "?version=2&x=[1]"])
@pytest.mark.parametrize("server", [{}, {"gives_parts": True}, {"knows_head": False}, {"tells_time": False}])
def test_a_single_file_is_listed_and_read_alone_and_from_a_manifest(site, tmp_path, server, query):
    for name, value in server.items():
        setattr(site, name, value)
    uri = f"{site.address}/a.wav{query}"
    [alone] = list_source(SourceSection(uri=uri)).to_pylist()
    [one] = named(tmp_path, uri)
    assert alone == one | {"metadata": alone["metadata"]}
    told = site.seconds * 10**9 if site.tells_time else None
    assert (one["uri"], one["size_bytes"], one["modified_ns"]) == (uri, len(CONTENT), told)
    assert fetch(planned(one), {}).content == CONTENT
    assert check_source(SourceSection(uri=uri)).state == "ok"


def tar_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def test_a_tar_is_read_where_the_server_gives_parts_of_it(site):
    members = {"a.wav": CONTENT, "b.wav": b"1234"}
    site.files["/s.tar"], site.gives_parts = tar_of(members), True
    rows = list_source(SourceSection(tar=f"{site.address}/s.tar")).to_pylist()
    assert {row["uri"].partition("#")[2]: fetch(planned(row), {}).content for row in rows} == members
    site.gives_parts = False
    with pytest.raises(StoreError, match="doesn't appear to support range requests"):
        list_source(SourceSection(tar=f"{site.address}/s.tar"))


def test_a_storage_section_is_not_meant_for_web_servers(site, tmp_path):
    [row] = named(tmp_path, f"{site.address}/b.wav", storage=Storage(endpoint_url="http://s3", anon=True))
    assert fetch(planned(row), {"endpoint_url": "http://s3", "anon": True}).content == b"1234"


def test_a_file_that_changed_is_noticed_by_its_time(site):
    [row] = list_source(SourceSection(uri=f"{site.address}/b.wav")).to_pylist()
    site.seconds += 1
    with pytest.raises(ObjectError, match="its modification time is another now") as caught:
        fetch(planned(row), {})
    assert caught.value.code == "source_changed"


@pytest.mark.parametrize("path", ["/", "/page/", "/page", "/*.wav"])
def test_what_would_have_to_be_listed_is_refused_with_what_to_write(site, path):
    for refuse in (list_source, check_source):
        with pytest.raises(RecipeError, match=r"cannot be listed; name one file, .*manifest: .*, allow: \[http\]"):
            refuse(SourceSection(uri=f"{site.address}{path}"))


def test_a_length_that_is_not_told_is_refused_alone_and_as_one_of_a_manifest(site, tmp_path):
    site.tells_length = False
    uri = f"{site.address}/b.wav"
    with pytest.raises(RecipeError, match=r"b\.wav cannot be read: its store does not say how long it is"):
        list_source(SourceSection(uri=uri))
    [row] = named(tmp_path, uri)
    assert row["problem"]["code"] == "source_refused"
    assert uri in row["problem"]["message"]


def test_what_is_not_there_is_missing(site, tmp_path):
    uri = f"{site.address}/none.wav"
    with pytest.raises(RecipeError, match=f"there is no object in {uri}"):
        list_source(SourceSection(uri=uri))
    [row] = named(tmp_path, uri)
    with pytest.raises(ObjectError) as caught:
        fetch(planned(row), {})
    assert (row["problem"], caught.value.code) == (None, "source_missing")


def test_what_is_refused_fails_alone_and_all_of_it_ends_the_plan(site, tmp_path):
    good, denied = named(tmp_path, f"{site.address}/b.wav", f"{site.address}/denied.wav")
    assert (good["problem"], denied["problem"]["code"]) == (None, "fetch_failed")
    assert "(403 Forbidden)" in denied["problem"]["message"]
    with pytest.raises(StoreError, match=r"none of the 20 objects that .*list\.csv names") as caught:
        named(tmp_path, *(f"{site.address}/denied{number}.wav" for number in range(20)))
    assert "S3" not in str(caught.value)
    assert "AWS" not in str(caught.value)


def test_a_server_in_trouble_is_asked_again_and_is_not_taken_for_one_without_the_file(site, tmp_path):
    site.statuses = [503] * 6  # three times HEAD and GET
    [row] = named(tmp_path, f"{site.address}/b.wav")
    assert (row["size_bytes"], row["problem"]) == (4, None)
    site.statuses = [503] * 6
    assert list_source(SourceSection(uri=f"{site.address}/b.wav")).num_rows == 1
    site.statuses = [503] * 6
    assert fetch(planned(row), {}).content == b"1234"
    site.statuses = [503] * 100
    with pytest.raises(ObjectError, match="503") as caught:
        fetch(planned(row), {})
    assert caught.value.code == "fetch_failed"
    with pytest.raises(StoreError, match=r"b\.wav could not be listed: 503"):
        list_source(SourceSection(uri=f"{site.address}/b.wav"))


@pytest.mark.parametrize("path", ["x.wav", "x/y.wav?z"])
def test_of_many_servers_one_that_is_down_fails_alone(site, tmp_path, path):
    uri = f"http://127.0.0.1:9/{path}"
    good, lost = named(tmp_path, f"{site.address}/b.wav", uri)
    assert (good["problem"], lost["problem"]["code"]) == (None, "fetch_failed")
    assert "127.0.0.1:9" in lost["problem"]["message"]
    with pytest.raises(
        StoreError, match=r"none of the 1 objects that .*list\.csv names can be read\. .*127\.0\.0\.1:9"
    ):
        named(tmp_path, uri)
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9"):
        list_source(SourceSection(uri=uri))
