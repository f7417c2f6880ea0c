"""Objects are read whole and at the planned version, or not at all."""

import glob
import hashlib
import io
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from schemas.failures import CODES
from workers import objects, readers
from workers.objects import ObjectError, fetch
from workers.source import Source, local_path
from workers.stores import is_s3, split_s3

CLIP = Path(__file__).parents[2] / "pipelines" / "demo" / "corpus" / "en" / "invalid.wav"
CONTENT = CLIP.read_bytes()
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def planned(path):
    stat = path.stat()
    return Source(str(path), None, stat.st_size, stat.st_mtime_ns)


def refusal(source):
    with pytest.raises(ObjectError) as caught:
        fetch(source, {})
    assert caught.value.code in CODES
    assert source.uri in caught.value.message
    return caught.value


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def in_memory():
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/corpus/clip.wav", CONTENT)
    yield Source("memory://corpus/clip.wav", None, len(CONTENT), None)
    filesystem.rm("/corpus", recursive=True)


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(objects.time, "sleep", lambda seconds: None)


@pytest.fixture
def short_spool(monkeypatch):
    monkeypatch.setattr(objects, "SPOOL_BYTES", 1000)


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    """Private copies of other tests, which may run at once, lie elsewhere."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def spools():
    return set(glob.glob(os.path.join(tempfile.gettempdir(), "phonolake-*")))


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_local_object_comes_whole_with_its_digest(clip, scheme):
    source = planned(clip)
    fetched = fetch(Source(scheme + source.uri, None, source.size_bytes, source.modified_ns), {})
    assert fetched.content == CONTENT
    assert (fetched.path, fetched.size_bytes, fetched.sha256) == (None, len(CONTENT), DIGEST)
    fetched.release()


def test_an_object_in_many_chunks_is_joined_in_order(clip, monkeypatch):
    monkeypatch.setattr(readers, "CHUNK_BYTES", 777)
    assert fetch(planned(clip), {}).content == CONTENT


def test_an_object_of_no_bytes_is_fetched(tmp_path):
    (tmp_path / "empty.wav").touch()
    fetched = fetch(planned(tmp_path / "empty.wav"), {})
    assert (fetched.content, fetched.path) == (b"", None)
    assert fetched.sha256 == hashlib.sha256(b"").hexdigest()


def test_a_local_object_that_is_gone_is_missing_at_once(clip):
    source = planned(clip)
    clip.unlink()
    error = refusal(source)
    assert (error.code, error.attempts) == ("source_missing", 1)


def test_a_folder_that_became_a_file_makes_its_objects_missing(clip):
    assert refusal(Source(f"{clip}/below.wav", None, 5, None)).code == "source_missing"


def test_a_local_object_that_grew_has_changed(clip):
    source = planned(clip)
    clip.write_bytes(CONTENT + b"more")
    os.utime(clip, ns=(source.modified_ns, source.modified_ns))
    error = refusal(source)
    assert error.code == "source_changed"
    assert "longer" in error.message


def test_a_local_object_that_shrank_has_changed(clip):
    source = planned(clip)
    clip.write_bytes(CONTENT[:100])
    os.utime(clip, ns=(source.modified_ns, source.modified_ns))
    error = refusal(source)
    assert error.code == "source_changed"
    assert "100" in error.message


def test_a_local_object_of_another_time_has_changed_even_at_the_same_size(clip):
    source = planned(clip)
    clip.write_bytes(CONTENT[::-1])
    os.utime(clip, ns=(0, source.modified_ns + 1))
    assert refusal(source).code == "source_changed"


def test_a_long_local_object_is_read_where_it_lies(clip, short_spool):
    fetched = fetch(planned(clip), {})
    assert (fetched.content, fetched.path) == (b"", str(clip))
    assert (fetched.size_bytes, fetched.sha256) == (len(CONTENT), DIGEST)
    fetched.release()
    assert clip.read_bytes() == CONTENT  # releasing is for copies, never for the source


def test_a_long_local_object_of_another_version_has_changed(clip, short_spool):
    source = planned(clip)
    os.utime(clip, ns=(0, 0))
    assert refusal(source).code == "source_changed"


def test_an_object_behind_fsspec_comes_whole_with_its_digest(in_memory):
    fetched = fetch(in_memory, {})
    assert (fetched.content, fetched.path, fetched.sha256) == (CONTENT, None, DIGEST)


def test_a_long_remote_object_is_spooled_to_a_private_file_until_it_is_released(in_memory, short_spool):
    fetched = fetch(in_memory, {})
    assert fetched.content == b""
    assert Path(fetched.path).read_bytes() == CONTENT
    assert fetched.sha256 == DIGEST
    assert os.stat(fetched.path).st_mode & 0o077 == 0
    fetched.release()
    assert not os.path.exists(fetched.path)


def test_a_remote_object_that_is_gone_is_missing_at_once(in_memory):
    error = refusal(Source("memory://corpus/other.wav", None, 10, None))
    assert (error.code, error.attempts) == ("source_missing", 1)


@pytest.mark.parametrize("planned_bytes", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_remote_object_of_another_size_has_changed(in_memory, planned_bytes):
    assert refusal(Source(in_memory.uri, None, planned_bytes, None)).code == "source_changed"


def test_a_long_remote_object_that_changed_leaves_no_private_file(in_memory, short_spool):
    before = spools()
    error = refusal(Source(in_memory.uri, None, len(CONTENT) + 1, None))
    assert error.code == "source_changed"
    assert spools() == before  # also while the error, and with it the frame it came from, is still held


class Flaky:
    """A filesystem whose reads fail some times before they succeed."""

    def __init__(self, failures):
        self.failures, self.opened = failures, 0

    def open(self, path, mode, **options):
        self.opened += 1
        if self.opened <= self.failures:
            raise ConnectionResetError("the store\nhung up")
        return CLIP.open(mode)


def test_a_store_that_fails_three_times_is_asked_a_fourth(monkeypatch, no_pauses):
    store = Flaky(3)
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda uri, **options: (store, uri))
    assert fetch(Source("flaky://clip.wav", None, len(CONTENT), None), {}).sha256 == DIGEST
    assert store.opened == 4


def test_a_store_that_never_delivers_is_given_up_with_its_own_words(monkeypatch, no_pauses):
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda uri, **options: (Flaky(99), uri))
    error = refusal(Source("flaky://clip.wav", None, len(CONTENT), None))
    assert (error.code, error.attempts) == ("fetch_failed", objects.TRIES)
    assert "ConnectionResetError: the store hung up" in error.message


class HangsUp(io.BytesIO):
    """An object whose connection breaks after its first half."""

    def read(self, size=-1):
        if self.tell():
            raise ConnectionResetError
        return super().read(len(CONTENT) // 2)


def test_a_retry_starts_from_the_first_byte(monkeypatch, no_pauses, short_spool):
    class Breaking(Flaky):
        def open(self, path, mode, **options):
            self.opened += 1
            return HangsUp(CONTENT) if self.opened == 1 else CLIP.open(mode)

    store = Breaking(1)
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda uri, **options: (store, uri))
    fetched = fetch(Source("flaky://clip.wav", None, len(CONTENT), None), {})
    assert store.opened == 2
    assert Path(fetched.path).read_bytes() == CONTENT
    assert fetched.sha256 == DIGEST
    fetched.release()


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/a/b.wav", "/a/b.wav"),
        ("a b.wav", "a b.wav"),
        ("file:///a/b.wav", "/a/b.wav"),
        ("s3://a/b", None),
        ("gs://a", None),
    ],
)
def test_local_uris_are_told_from_remote_ones(uri, path):
    assert local_path(uri) == path


def test_a_key_may_hold_what_a_url_may_not():
    assert split_s3("s3://bucket/a b/c?d#e%20.wav") == ("bucket", "a b/c?d#e%20.wav")
    assert is_s3("s3a://bucket/key")
    assert not is_s3("gs://bucket/key")


def test_an_object_behind_fsspec_of_another_etag_has_changed_even_at_the_same_size(in_memory, monkeypatch):
    source = replace(in_memory, etag="one")
    monkeypatch.setattr(readers, "etag_of", lambda info: "two")
    assert refusal(source).code == "source_changed"
    monkeypatch.setattr(readers, "etag_of", lambda info: "one")
    assert fetch(source, {}).size_bytes == source.size_bytes


def test_a_long_local_object_that_changes_while_it_is_decoded_is_noticed(clip, short_spool):
    fetched = fetch(planned(clip), {})
    assert fetched.path == str(clip)
    assert not fetched.has_changed()
    os.utime(clip, ns=(0, 1))
    assert fetched.has_changed()
    clip.unlink()
    assert fetched.has_changed()


def test_a_long_local_object_whose_folder_is_none_any_more_has_changed(tmp_path, short_spool):
    folder = tmp_path / "calls"
    folder.mkdir()
    (folder / "a.wav").write_bytes(CONTENT)
    fetched = fetch(planned(folder / "a.wav"), {})
    shutil.rmtree(folder)
    folder.write_bytes(b"a file of the folder's name")
    assert fetched.has_changed()
