"""The ways to read an object's bytes: from the disk, from S3 by obstore, from elsewhere by fsspec."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import fsspec
import obstore

from workers.source import Source, local_path
from workers.stores import Options, etag_of, fsspec_options, is_s3, s3_store, split_s3

CHUNK_BYTES: Final = 4 << 20


class Changed(Exception):
    """The object is not the planned version."""


class Reader(Protocol):
    """Reads one object, at its planned version."""

    def chunks(self, start: int, length: int) -> Iterator[bytes]:
        """Yield an object's bytes from `start`; about `length` are wanted.

        Raises FileNotFoundError, PreconditionError, Changed, or an error of the store.
        """


@dataclass(frozen=True, slots=True)
class _LocalReader:
    path: str
    source: Source

    def chunks(self, start: int, length: int) -> Iterator[bytes]:
        with open(self.path, "rb", buffering=0) as file:
            modified_ns = os.fstat(file.fileno()).st_mtime_ns
            if self.source.modified_ns not in (None, modified_ns):
                raise Changed("its modification time is another now")
            file.seek(start)
            step = min(CHUNK_BYTES, length + 1)  # as much memory as it takes, and one byte too many
            while chunk := file.read(step):
                yield chunk


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
        if self.source.etag and etag_of(self.filesystem.info(self.path)) != self.source.etag:
            raise Changed(f"its etag is no longer {self.source.etag}")
        with self.filesystem.open(self.path, "rb", cache_type="none") as file:
            file.seek(start)
            while chunk := file.read(min(CHUNK_BYTES, length + 1)):
                yield chunk


def reader_of(source: Source, options: Options) -> Reader:
    """Return what reads a source\'s object."""
    uri = source.object_uri
    path = local_path(uri)
    if path is not None:
        return _LocalReader(path, source)
    bucket, key = split_s3(uri) if is_s3(uri) else ("", "")
    if key and not set(key.split("/")) & {"", ".", ".."}:  # obstore takes no such parts; s3fs does
        return _ObstoreReader(s3_store(bucket, tuple(sorted(options.items()))), key, source)
    filesystem, path = fsspec.core.url_to_fs(uri, **fsspec_options(uri, options))
    return _FsspecReader(filesystem, path, source)
