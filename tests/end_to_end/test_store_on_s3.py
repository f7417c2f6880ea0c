"""The lake's store on a real S3 server: create-once holds among concurrent writers, and what is emptied is empty."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.store import Store
from tests.end_to_end.conftest import S3Server

WRITERS, ROUNDS = 8, 10


@pytest.fixture(scope="module")
def store(s3: S3Server) -> Store:
    s3.filesystem().mkdir("stores")
    return Store("s3://stores/lake")


def test_of_many_who_create_at_once_exactly_one_wins_every_time(store: Store) -> None:
    with ThreadPoolExecutor(WRITERS) as writers:
        for number in range(ROUNDS):
            start = threading.Barrier(WRITERS)

            def write(writer: int, number: int = number, start: threading.Barrier = start) -> bool:
                start.wait()
                return store.create(f"runs/{number}/verdict.json", f"writer {writer}".encode() * 100)

            won = list(writers.map(write, range(WRITERS)))
            assert won.count(True) == 1
            assert store.read(f"runs/{number}/verdict.json") == f"writer {won.index(True)}".encode() * 100


def test_a_store_that_keeps_what_is_there_is_taken(store: Store) -> None:
    store.check_create_once("runs/x/create-once")


def test_a_file_is_created_once_and_comes_back_as_it_was(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine" * 1000)
    (tmp_path / "theirs").write_bytes(b"theirs" * 1000)
    assert store.create_from("data/a.parquet", tmp_path / "mine")
    assert store.create_from("data/a.parquet", tmp_path / "mine")
    assert not store.create_from("data/a.parquet", tmp_path / "theirs")
    assert store.local_copy("data/a.parquet", tmp_path).read_bytes() == b"mine" * 1000
    assert store.read_parts("data/a.parquet", lambda file: (file.seek(4), file.read(4))[1]) == b"mine"


def test_a_copy_stays_when_its_folder_is_deleted_and_an_emptied_folder_holds_nothing(store: Store) -> None:
    store.put("staging/c/1/x", b"rows")
    store.copy("staging/c/1/x", "data/t/x")
    for _ in range(2):
        store.delete_folder("staging/c/1")
    assert store.list("staging/c/1") == {}
    assert store.read("data/t/x") == b"rows"
    with pytest.raises(FileNotFoundError):
        store.copy("staging/c/1/x", "data/t/y")
