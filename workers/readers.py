"""The ways to read an object's bytes: from the disk, from S3 by obstore, from elsewhere by fsspec."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Final, Protocol

import fsspec
import obstore

from workers.source import Source, local_path
from workers.stores import (
    Options,
    etag_of,
    fsspec_options,
    info_of,
    is_s3,
    is_web,
    obstore_takes,
    s3_store,
    split_s3,
    time_of,
)

CHUNK_BYTES: Final = 4 << 20
KINDS: Final = {stat.S_IFDIR: "folder", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}


class Changed(Exception):
    """The object is not the planned version."""


class NotRegular(Exception):
    """What is named is a folder, a pipe, a socket or a device: reading it might never end."""


class Reader(Protocol):
    """Reads one object, at its planned version."""

    def chunks(self, start: int, length: int) -> Iterator[bytes]:
        """Yield an object's bytes from `start`; about `length` are wanted.

        Raises FileNotFoundError, PreconditionError, Changed, NotRegular, or an error of the store.
        """


@dataclass(frozen=True, slots=True)
class _LocalReader:
    path: str
    source: Source

    def chunks(self, start: int, length: int) -> Iterator[bytes]:
        with _open_regular(self.path) as file:
            modified_ns = os.fstat(file.fileno()).st_mtime_ns
            if self.source.modified_ns not in (None, modified_ns):
                raise Changed("its modification time is another now")
            file.seek(start)
            step = min(CHUNK_BYTES, length + 1)  # as much memory as it takes, and one byte too many
            while chunk := file.read(step):
                yield chunk


def _open_regular(path: str) -> IO[bytes]:
    """Open a regular file, unbuffered; what is none is not opened, nor waited for if it takes a file's place."""
    _refuse_unless_regular(os.stat(path), path)
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)  # noqa: SIM115
    try:
        _refuse_unless_regular(os.fstat(file.fileno()), path)
    except NotRegular:
        file.close()
        raise
    return file


def _refuse_unless_regular(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotRegular(f"{path} is a {KINDS.get(stat.S_IFMT(status.st_mode), 'device')}, no file")


@dataclass(frozen=True, slots=True)
class _ObstoreReader:
    store: Any
    key: str
    source: Source

    def chunks(self, start: int, length: int) -> Iterator[bytes]:
        options: dict[str, Any] = {"if_match": f'"{self.source.etag}"'} if self.source.etag else {}
        if start or length < (self.source.place.shard_bytes if self.source.place else self.source.size_bytes):
            options["range"] = (start, start + length)
        for chunk in obstore.get(self.store, self.key, options=options).stream(min_chunk_size=CHUNK_BYTES):
            yield bytes(chunk)


@dataclass(frozen=True, slots=True)
class _FsspecReader:
    filesystem: Any
    path: str
    source: Source

    def chunks(self, start: int, length: int) -> Iterator[bytes]:
        self._refuse_if_changed()
        with self.filesystem.open(self.path, "rb", cache_type="none", **self._at_once(start, length)) as file:
            file.seek(start)
            while chunk := file.read(min(CHUNK_BYTES, length + 1)):
                yield chunk

    def _refuse_if_changed(self) -> None:
        if self.source.etag is None and self.source.modified_ns is None and not is_web(self.path):
            return
        info = info_of(self.filesystem, self.path)
        if self.source.etag:
            if etag_of(info) != self.source.etag:
                raise Changed(f"its etag is no longer {self.source.etag}")
        elif self.source.modified_ns not in (None, time_of(info)):
            raise Changed("its modification time is another now")

    def _at_once(self, start: int, length: int) -> dict[str, int]:
        """Ask a web server for a whole file with one request, for not every one gives parts."""
        size = self.source.place.shard_bytes if self.source.place else self.source.size_bytes
        return {"block_size": 0, "size": size} if is_web(self.path) and not start and length >= size else {}


def reader_of(source: Source, options: Options) -> Reader:
    """Return what reads a source's object."""
    uri = source.object_uri
    path = local_path(uri)
    if path is not None:
        return _LocalReader(path, source)
    bucket, key = split_s3(uri) if is_s3(uri) else ("", "")
    if key and obstore_takes(key):
        return _ObstoreReader(s3_store(bucket, tuple(sorted(options.items()))), key, source)
    filesystem, path = fsspec.core.url_to_fs(uri, **fsspec_options(uri, options))
    return _FsspecReader(filesystem, path, source)
