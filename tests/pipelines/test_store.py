"""The store on a local disk: whole objects, create-once, and errors that say where."""

import errno
import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pipelines.backends
import pipelines.store
from pipelines.backends import Disk
from pipelines.errors import RecipeError, StoreError
from pipelines.store import Store

WRITERS = 16
ROUNDS = 10


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setattr(pipelines.store, "FIRST_PAUSE_SECONDS", 0.0)
    return Store(str(tmp_path / "lake"))


class FaultyDisk(Disk):
    """A disk whose first writes go wrong, before or after their effect."""

    def __init__(self, root: str, error: Exception, after_effect: bool, times: int) -> None:
        super().__init__(root)
        self.error, self.after_effect, self.times = error, after_effect, times

    def write(self, path: str, data: bytes, *, create: bool) -> None:
        self.times -= 1
        if self.times < 0:
            super().write(path, data, create=create)
            return
        if self.after_effect:
            super().write(path, data, create=create)
        raise self.error


def failing(store: Store, error: Exception, *, after_effect: bool, times: int = 1) -> tuple[Store, FaultyDisk]:
    disk = FaultyDisk(store.full("").rstrip("/"), error, after_effect, times)
    faulty = Store(store.uri)
    faulty.__dict__["backend"] = disk
    return faulty, disk


def files(store: Store) -> list[str]:
    return sorted(store.list(""))


def test_what_is_put_is_read_back_and_listed_with_its_size(store):
    store.put("a/b/c.bin", b"123")
    store.put("a/d.bin", b"")
    assert store.read("a/b/c.bin") == b"123"
    assert store.list("a") == {"a/b/c.bin": 3, "a/d.bin": 0}
    assert store.exists("a/d.bin")
    assert not store.exists("a/e.bin")


def test_a_folder_that_is_not_there_is_an_empty_listing(store):
    assert store.list("nothing/here") == {}


def test_reading_what_is_not_there_is_a_file_not_found_error_at_once(store):
    with pytest.raises(FileNotFoundError, match=r"none\.bin"):
        store.read("none.bin")


def test_a_put_replaces(store):
    store.put("a", b"1")
    store.put("a", b"2")
    assert store.read("a") == b"2"


def test_create_writes_once(store):
    assert store.create("plan.json", b"mine") is True
    assert store.create("plan.json", b"theirs") is False
    assert store.read("plan.json") == b"mine"


def test_creating_the_same_bytes_again_is_ours_again(store):
    assert store.create("plan.json", b"mine")
    assert store.create("plan.json", b"mine")


def test_sixteen_threads_create_and_exactly_one_wins_ten_times(store):
    with ThreadPoolExecutor(WRITERS) as writers:
        for round_ in range(ROUNDS):
            start = threading.Barrier(WRITERS)

            def write(number: int, round_: int = round_, start: threading.Barrier = start) -> bool:
                start.wait()
                return store.create(f"runs/{round_}/plan.json", f"writer {number}".encode() * 1000)

            won = list(writers.map(write, range(WRITERS)))
            assert won.count(True) == 1
            assert store.read(f"runs/{round_}/plan.json") == f"writer {won.index(True)}".encode() * 1000
    assert len(files(store)) == ROUNDS  # nothing temporary stays


def _write_every_round(uri: str, number: int, start, answers) -> None:
    store = Store(uri)
    for round_ in range(ROUNDS):
        start.wait(60)
        answers.put((round_, number, store.create(f"runs/{round_}/plan.json", f"writer {number}".encode() * 1000)))


def test_sixteen_processes_create_and_exactly_one_wins_ten_times(store):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.store"])
    start, answers = context.Barrier(WRITERS), context.Queue()
    processes = [
        context.Process(target=_write_every_round, args=(store.uri, number, start, answers))
        for number in range(WRITERS)
    ]
    for process in processes:
        process.start()
    told = [answers.get(timeout=60) for _ in range(WRITERS * ROUNDS)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    for round_ in range(ROUNDS):
        winners = [number for at, number, won in told if at == round_ and won]
        assert len(winners) == 1
        assert store.read(f"runs/{round_}/plan.json") == f"writer {winners[0]}".encode() * 1000
    assert len(files(store)) == ROUNDS


@pytest.mark.parametrize("error", [OSError("connection reset"), TimeoutError(), FileExistsError("412")])
def test_a_lost_response_to_our_own_create_is_recognised_as_ours(store, error):
    faulty, _ = failing(store, error, after_effect=True)
    assert faulty.create("plan.json", b"mine") is True
    assert faulty.read("plan.json") == b"mine"


@pytest.mark.parametrize("error", [OSError("connection reset"), TimeoutError()])
def test_after_an_error_another_writers_object_is_recognised_as_not_ours(store, error):
    store.put("plan.json", b"theirs")
    faulty, _ = failing(store, error, after_effect=False)
    assert faulty.create("plan.json", b"mine") is False
    assert faulty.read("plan.json") == b"theirs"


@pytest.mark.parametrize("method", ["put", "create"])
def test_an_error_that_passes_is_tried_again(store, method):
    faulty, _ = failing(store, OSError("busy"), after_effect=False, times=pipelines.store.TRIES - 1)
    getattr(faulty, method)("a.bin", b"1")
    assert faulty.read("a.bin") == b"1"


@pytest.mark.parametrize("method", ["put", "create"])
def test_an_error_that_stays_names_what_was_done_and_where(store, method):
    faulty, disk = failing(store, OSError("busy"), after_effect=False, times=100)
    with pytest.raises(StoreError) as caught:
        getattr(faulty, method)("runs/a.bin", b"1")
    assert f"{store.full('runs/a.bin')}" in str(caught.value)
    assert "OSError: busy" in str(caught.value)
    assert disk.times == 100 - pipelines.store.TRIES


@pytest.mark.parametrize(
    "error", [PermissionError("no"), OSError(errno.ENOSPC, "No space left on device")], ids=["refused", "full"]
)
def test_what_trying_again_cannot_mend_is_not_tried_again(store, error):
    faulty, disk = failing(store, error, after_effect=False, times=100)
    with pytest.raises(StoreError, match=r"a\.bin"):
        faulty.put("a.bin", b"1")
    assert disk.times == 99


@pytest.mark.parametrize("method", ["put", "create"])
@pytest.mark.parametrize("step", ["write", "publish"])
def test_a_write_that_raises_leaves_no_half_object_and_nothing_temporary(store, monkeypatch, method, step):
    real_open = open

    class Torn:
        """A file whose disk is full after three bytes."""

        def __init__(self, path: Path, mode: str) -> None:
            self.file = real_open(path, mode)

        def __enter__(self) -> "Torn":
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[:3])
            self.file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

    def refuse(*paths: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        if step == "write":
            broken.setattr(pipelines.backends, "open", Torn, raising=False)
        else:
            broken.setattr(os, "link", refuse)
            broken.setattr(os, "replace", refuse)
        with pytest.raises(StoreError, match="No space left"):
            getattr(store, method)("data/a.parquet", b"0123456789")
    assert files(store) == []
    getattr(store, method)("data/a.parquet", b"0123456789")
    assert files(store) == ["data/a.parquet"]


def test_readers_never_see_a_part_of_an_object(store):
    data = os.urandom(4 << 20)
    seen = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.update(store.list("data").values())

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(5):
        store.create(f"data/{number}", data)
    stop.set()
    reader.join()
    assert seen <= {len(data)}


def test_a_copy_is_the_same_file_and_copying_twice_is_harmless(store):
    store.put("staging/x", b"rows")
    store.copy("staging/x", "data/deep/x")
    store.copy("staging/x", "data/deep/x")
    assert store.read("data/deep/x") == b"rows"
    assert os.path.samefile(store.full("staging/x"), store.full("data/deep/x"))
    store.delete_folder("staging")
    assert files(store) == ["data/deep/x"]


def test_copying_what_is_gone_is_a_file_not_found_error(store):
    with pytest.raises(FileNotFoundError):
        store.copy("staging/none", "data/x")
    assert files(store) == []


def test_a_folder_is_deleted_with_all_in_it_and_deleting_it_twice_is_harmless(store):
    store.put("staging/a/b", b"1")
    store.put("data/a", b"1")
    store.delete_folder("staging")
    store.delete_folder("staging")
    assert files(store) == ["data/a"]


def test_eight_may_delete_a_folder_at_the_same_time(store):
    for _ in range(3):
        for number in range(100):
            store.put(f"staging/c/{number % 10}/{number}", b"1")
        with ThreadPoolExecutor(8) as deleters:
            for deleted in [deleters.submit(store.delete_folder, "staging/c") for _ in range(8)]:
                deleted.result()
        assert not store.exists("staging/c")


@pytest.mark.parametrize(
    "uri", ["gs://bucket/lake", "memory://lake", "https://host/lake", "hdfs://host/lake", "az://c"]
)
def test_stores_that_are_not_proven_are_refused_by_name(uri):
    with pytest.raises(RecipeError, match=f"cannot lie in {uri}"):
        Store(uri)


@pytest.mark.parametrize("uri", ["s3://bucket/lake", "s3a://bucket/lake", "/lake", "file:///lake", "lake"])
def test_s3_and_local_paths_are_taken(uri):
    assert Store(uri).uri == uri


def test_urls_are_as_a_reader_outside_would_name_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Store("s3://bucket/lake/").url("data/x") == "s3://bucket/lake/data/x"
    assert Store("/lake/").url("data/x") == "/lake/data/x"
    assert Store("file:///lake").url("data/x") == "/lake/data/x"
    assert Store("lake").url("data/x") == f"{tmp_path}/lake/data/x"


def test_a_store_pickles_as_its_address(store):
    store.put("a", b"1")
    assert store.read("a") == b"1"  # with an open file system by now
    again = pickle.loads(pickle.dumps(store))
    assert (again.uri, again.options) == (store.uri, store.options)
    assert again.read("a") == b"1"
    remote = Store("s3://bucket/lake", {"endpoint_url": "http://host:1"})
    assert pickle.loads(pickle.dumps(remote)) == remote
