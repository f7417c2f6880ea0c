"""The matrix of test_faults.py on a real S3 server: every call that writes, before and after its effect; and answers
that are lost on the wire, below what s3fs tries again by itself.

Every test shares the chapters that were recorded on a disk: what lies on S3 in the end is what lies there.
"""

import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from test_faults import TROUBLES, Hands, Place, Trouble, by_hand, chapters, check_passes, check_stays, places

import pipelines.backends
from pipelines.store import Store
from tests.end_to_end.conftest import S3Server
from tests.faults import WRITES

ALL = os.environ.get("PHONOLAKE_CHAOS") == "1"
NAMES = ("fails three times", "loses three answers", "is down", "never answers")
"""Before the effect and after it; passing within the tries, and staying."""
LAKES = count(1)
PART_BYTES = 5 << 20  # the least that S3 takes for a part but the last


def cases() -> list[tuple[Place, Trouble]]:
    """Every call that writes, with each trouble that it may have; of each call one, in turn, if not ALL."""
    troubles = [trouble for trouble in TROUBLES if trouble.name in NAMES]
    found = []
    for turn, place in enumerate(place for place in places() if place.act in WRITES):
        able = [trouble for trouble in troubles if place.act in trouble.acts]
        found += [(place, trouble) for trouble in (able if ALL else [able[turn % len(able)]])]
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Cross the calls, which nobody lists."""
    if "trouble" in metafunc.fixturenames:
        pairs = [pytest.param(place, trouble, id=f"{place} {trouble.name}") for place, trouble in cases()]
        metafunc.parametrize(("place", "trouble"), pairs)


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    s3.filesystem().mkdir("faults")
    return "s3://faults"


@pytest.fixture(scope="module")
def hands() -> Iterator[Hands]:
    with by_hand() as hands:
        yield hands


def lake_at(bucket: str, start: dict[str, bytes]) -> Store:
    """A lake with just these objects."""
    store = Store(f"{bucket}/{next(LAKES)}")
    for path, data in start.items():
        store.put(path, data)
    return store


def test_a_write_that_fails_on_s3_before_or_after_its_effect_leaves_the_same_lake_in_the_end(
    hands: Hands, bucket: str, place: Place, trouble: Trouble
) -> None:
    store = lake_at(bucket, chapters()[place.chapter].start)
    (check_stays if trouble.stays else check_passes)(hands, store, place, trouble)


# Answers that are lost on the wire ------------------------------------------------------------------------------------


@dataclass
class Wire:
    """A proxy that passes every byte on, but loses the answers to requests whose first line matches.

    Attributes:
        loses: a pattern of the first line of a request, `PUT /bucket/key HTTP/1.1`.
        times: how many answers it still loses.
        lost: the first lines of the requests whose answers were lost, when the server had answered.
    """

    address: tuple[str, int]
    loses: str = "(?!)"
    times: int = 0
    lost: list[str] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        with suppress(OSError):  # the listener is closed at the end
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self.address)
                asked: list[str] = [""]
                for act in (self._ask, self._answer):
                    threading.Thread(target=act, args=(client, server, asked), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, asked: list[str]) -> None:
        """Pass requests on, and note the first line of each."""
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if line := re.match(rb"(?:PUT|POST|GET|HEAD|DELETE) \S+ HTTP/1.1", data):
                    asked[0] = line[0].decode()
                server.sendall(data)
        close(server)

    def _answer(self, client: socket.socket, server: socket.socket, asked: list[str]) -> None:
        """Pass answers on, or hang up in the place of one; but not of the mere permission to go on."""
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if self.times > 0 and re.search(self.loses, asked[0]) and not data.startswith(b"HTTP/1.1 100"):
                    self.times -= 1
                    self.lost.append(f"{asked[0]} {data[9:12].decode()}")
                    break
                client.sendall(data)
        close(client)
        close(server)


def close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@pytest.fixture
def wire(s3: S3Server, bucket: str) -> Iterator[tuple[Wire, Store, Store]]:
    """A wire to the server, a lake at its end, and the same lake reached directly."""
    host, port = s3.environment["AWS_ENDPOINT_URL"].removeprefix("http://").split(":")
    wire, uri = Wire((host, int(port))), f"{bucket}/{next(LAKES)}"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=wire.serve, args=(listener,), daemon=True)
        thread.start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield wire, Store(uri, {"endpoint_url": endpoint}), Store(uri)
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("times", [1, 6])  # more than s3fs tries by itself
def test_a_small_object_whose_answer_is_lost_is_ours(wire: tuple[Wire, Store, Store], times: int) -> None:
    lossy, store, direct = wire
    lossy.loses, lossy.times = r"PUT \S*/verdict.json", times
    assert store.create("runs/verdict.json", b"ours")
    assert lossy.lost[0].endswith(" 200")
    assert direct.read("runs/verdict.json") == b"ours"
    assert not store.create("runs/verdict.json", b"theirs")
    assert direct.read("runs/verdict.json") == b"ours"


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that travels in three parts."""
    monkeypatch.setitem(pipelines.backends.TRANSFER, "chunksize", PART_BYTES)
    file = tmp_path / "large"
    file.write_bytes(os.urandom(2 * PART_BYTES + 1000))
    return file


BEGIN, PART, COMPLETE = r"POST \S*\?uploads", r"PUT \S*partNumber=2", r"POST \S*\?uploadId"


@pytest.mark.parametrize(
    ("step", "times"),
    [(BEGIN, 1), (PART, 1), (COMPLETE, 1), (COMPLETE, 6)],
    ids=["begin", "part", "complete", "complete six times"],
)
def test_a_large_object_is_whole_and_ours_whichever_answer_of_its_upload_is_lost(
    wire: tuple[Wire, Store, Store], large: Path, step: str, times: int
) -> None:
    lossy, store, direct = wire
    lossy.loses, lossy.times = step, times
    assert store.create_from("data/large", large)
    assert lossy.lost[0].endswith(" 200")
    assert direct.read("data/large") == large.read_bytes()
    assert not direct.create_from("data/large", other(large))
    assert direct.read("data/large") == large.read_bytes()


def other(file: Path) -> Path:
    """A file of the same size and with other bytes."""
    theirs = file.with_name("theirs")
    theirs.write_bytes(bytes(file.stat().st_size))
    return theirs


def test_of_two_large_objects_the_second_is_refused_though_the_first_ones_answer_was_lost(
    wire: tuple[Wire, Store, Store], large: Path
) -> None:
    lossy, store, direct = wire
    assert direct.create_from("data/large", other(large))
    lossy.loses, lossy.times = COMPLETE, 1
    assert not store.create_from("data/large", large)
    assert direct.read("data/large") == bytes(large.stat().st_size)
