"""Reading source objects: whole, at the planned version, many at a time.

Hot reads of s3:// go through obstore, which costs a thirteenth of s3fs's CPU time an object (docs/decisions.md);
credentials, endpoint and region come from where s3fs takes them. Local files are opened directly; every other scheme
goes through fsspec.
"""

import errno
import hashlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Final, TypeVar

from obstore.exceptions import PreconditionError

from workers.readers import Changed, NotRegular, Reader, reader_of
from workers.source import Source, local_path
from workers.stores import Options, ReadingStopped

SPOOL_BYTES: Final = 64 << 20  # larger objects go through a private file instead of memory
TRIES: Final = 4
FIRST_PAUSE_SECONDS: Final = 0.25

CREDENTIAL_CODES: Final = (
    *("ExpiredToken", "TokenRefreshRequired", "InvalidToken", "RequestExpired", "InvalidAccessKeyId"),
    *("SignatureDoesNotMatch", "RequestTimeTooSkewed", "InvalidClientTokenId"),
)
"""What S3 calls credentials that no retry can mend; AccessDenied is not among them, for it may be one object's own."""


_T = TypeVar("_T")


class ObjectError(Exception):
    """An object could not be read; `code` is source_missing, source_changed, source_refused or fetch_failed."""

    def __init__(self, code: str, message: str, attempts: int = 1) -> None:
        super().__init__(code, message, attempts)
        self.code, self.message, self.attempts = code, message, attempts


@dataclass(frozen=True, slots=True)
class Fetched:
    """An object's bytes: in memory, or where they are many, in a file at `path`. Release it after use.

    `read_at` is where and when a file that is decoded in place was read, so that a change can be noticed.
    """

    content: bytes
    path: str | None
    size_bytes: int
    sha256: str
    spool: IO[bytes] | None = None
    read_at: Source | None = None

    def has_changed(self) -> bool:
        """Whether the file is not any more what was read."""
        if self.read_at is None or self.path is None:
            return False
        try:
            status = os.stat(self.path)
        except OSError:  # it is gone, or what it lay in is
            return True
        return (status.st_size, status.st_mtime_ns) != (self.size_bytes, self.read_at.modified_ns or status.st_mtime_ns)

    def release(self) -> None:
        """Delete the private copy, if there is one."""
        if self.spool is not None:
            self.spool.close()


def fetch(source: Source, options: Options) -> Fetched:
    """Read an object, or a member of a tar at its place, at its planned version.

    Raises:
        ObjectError: it is gone (source_missing), another version (source_changed), or did not come after TRIES
            tries with growing, jittered pauses (fetch_failed), or is no regular file (source_refused).
        ReadingStopped: credentials that no store takes, or no space for a private copy.
    """
    if source.size_bytes <= SPOOL_BYTES:
        content = read_range(source, source.place.offset if source.place else 0, source.size_bytes, options)
        return Fetched(content, None, len(content), hashlib.sha256(content).hexdigest())
    reader, path = reader_of(source, options), local_path(source.object_uri)
    if path is not None and source.place is None:  # a long local file is decoded where it lies
        digest = _retried(source, lambda: _digest(_checked(reader, source)))
        return Fetched(b"", path, source.size_bytes, digest, read_at=source)
    return spooled(source, lambda: _checked(reader, source))


def read_range(source: Source, start: int, length: int, options: Options) -> bytes:
    """Return `length` bytes of a source's object from byte `start` of it; all of them, or an error as of fetch."""
    if length == 0 and source.place is not None:
        return b""  # stores refuse an empty range
    reader = reader_of(source, options)
    if source.place is None and length == source.size_bytes:
        return _retried(source, lambda: b"".join(_checked(reader, source)))

    def read() -> bytes:
        found = bytearray()
        for chunk in reader.chunks(start, length):
            found += chunk[: length - len(found)]
            if len(found) == length:
                return bytes(found)
        raise Changed(f"{length} bytes from {start} were there, and are {len(found)} now")

    return _retried(source, read)


def spooled(source: Source, chunks: Callable[[], Iterator[bytes]], *, again: bool = True) -> Fetched:
    """Write what `chunks` yields to a private file; ask for it anew where a try fails, if it can be had `again`."""
    spool = _retried(source, lambda: tempfile.NamedTemporaryFile(prefix="phonolake-"))  # noqa: SIM115 - until release()
    try:
        digest = _retried(source, lambda: _spool(chunks(), spool.name)) if again else _once(source, chunks, spool.name)
    except BaseException:
        spool.close()  # the error is kept for a while, and would keep the file
        raise
    return Fetched(b"", spool.name, os.stat(spool.name).st_size, digest, spool)


def _once(source: Source, chunks: Callable[[], Iterator[bytes]], path: str) -> str:
    try:
        return _spool(chunks(), path)
    except OSError as error:
        _raise_if_hopeless(error, source.uri)
        raise


def _checked(reader: Reader, source: Source) -> Iterator[bytes]:
    """Yield a source's bytes; stop where it is not as long as planned, before more is held than was planned for."""
    seen, inside = 0, source.place is not None
    for chunk in reader.chunks(source.place.offset if source.place else 0, source.size_bytes):
        wanted = chunk[: source.size_bytes - seen] if inside else chunk
        seen += len(wanted)
        if seen > source.size_bytes:
            raise Changed(f"it was {source.size_bytes} bytes and is longer now")
        yield wanted
        if inside and seen == source.size_bytes:
            return
    if seen < source.size_bytes:
        raise Changed(f"it was {source.size_bytes} bytes and is {seen} now")


def _digest(chunks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _spool(chunks: Iterator[bytes], path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _retried(source: Source, read: Callable[[], _T]) -> _T:
    uri = source.uri
    for attempt in range(1, TRIES + 1):
        try:
            return read()
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectError("source_missing", f"{uri} is gone since it was listed", attempt) from None
        except PreconditionError:
            reason = f"its etag is no longer {source.etag}"
            raise ObjectError("source_changed", f"{uri} changed since it was listed: {reason}", attempt) from None
        except Changed as error:
            raise ObjectError("source_changed", f"{uri} changed since it was listed: {error}", attempt) from None
        except NotRegular as error:
            raise ObjectError("source_refused", f"{error}; only regular files are read", attempt) from None
        except ObjectError:
            raise
        except Exception as error:  # each store has errors of its own; most of them are worth the next try
            _raise_if_hopeless(error, uri)
            if attempt == TRIES:
                raise ObjectError("fetch_failed", f"{uri} was not delivered: {_brief(error)}", attempt) from error
            time.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


def _raise_if_hopeless(error: Exception, uri: str) -> None:
    """Raise what would meet every other object too."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise ReadingStopped(f"{uri}: no space left for a private copy in {tempfile.gettempdir()}") from error
    refused = next((code for code in CREDENTIAL_CODES if code in str(error)), None)
    if refused:
        raise ReadingStopped(f"{uri}: the store refuses the credentials ({refused}); renew them") from error


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
