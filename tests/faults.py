"""A store that fails on purpose: any call of a backend, before its effect, half way or after it, once or for ever.

    store, backend = faulty(Store(uri), Fault("create", "runs/*/plan.json", server_error, when="after"))

The errors are those that s3fs and a disk really raise; tests/pipelines/test_faults.py holds them against s3fs and a
server that misbehaves. What is left out is left out because nobody does it: s3fs never returns a body that was cut, it
raises; and neither S3 (since December 2020) nor a disk leaves an object that was written out of a later listing.

A store pickles as its address, so that what travels to a Ray worker does not fail.
"""

import errno
import io
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeVar
from unittest.mock import patch

from aiohttp import ClientPayloadError
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError
from fsspec.exceptions import FSTimeoutError
from s3fs.errors import translate_boto_error

import pipelines.backends
from pipelines.backends import Backend, Disk
from pipelines.store import Store

READS: Final = ("read", "open", "part", "local_copy", "exists", "list")  # part: of an object that was opened
WRITES: Final = ("put", "create", "create_from", "copy", "delete")
CREATES: Final = ("create", "create_from")

Error = Callable[[], Exception]
_T = TypeVar("_T")


def reset() -> Exception:
    """A connection that was reset: an OSError."""
    return ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


def timed_out() -> Exception:
    """A server, or a request, that took too long: an OSError."""
    return FSTimeoutError()


def server_error() -> Exception:
    """A 500: an OSError."""
    return _as_s3fs_says("InternalError", "We encountered an internal error. Please try again.")


def slow_down() -> Exception:
    """A 503: an OSError."""
    return _as_s3fs_says("SlowDown", "Please reduce your request rate.")


def hung_up() -> Exception:
    """A server that closed the connection without an answer: not an OSError."""
    return ConnectionClosedError(endpoint_url="http://store")


def unreachable() -> Exception:
    """A server that is not there: not an OSError."""
    return EndpointConnectionError(endpoint_url="http://store")


def cut() -> Exception:
    """A body that ended before its length: not an OSError."""
    return ClientPayloadError("Response payload is not completed")


def expired() -> Exception:
    """Credentials that ran out, as every request with a body in its answer tells it."""
    return _as_s3fs_says("ExpiredToken", "The provided token has expired.")


def expired_at_head() -> Exception:
    """Credentials that ran out, as a HEAD request tells it, which s3fs makes before most reads: a 400, without why."""
    return _as_s3fs_says("400", "Bad Request")


def full() -> Exception:
    """A disk without space."""
    return OSError(errno.ENOSPC, "No space left on device")


def taken() -> Exception:
    """A name that is taken: what a create hears when its first request took effect and a lower layer sent a second."""
    return FileExistsError("At least one of the pre-conditions you specified did not hold")


def _as_s3fs_says(code: str, message: str) -> Exception:
    said = translate_boto_error(ClientError({"Error": {"Code": code, "Message": message}}, "Anything"))
    assert isinstance(said, OSError)
    return said


def in_turn(*errors: Error) -> Error:
    """One after the other, and round again."""
    made = iter(())

    def make() -> Exception:
        nonlocal made
        error = next(made, None)
        if error is None:
            made = iter(errors)
            error = next(made)
        return error()

    return make


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a backend: an act of READS or WRITES, and the path that it is about (of a copy, the target)."""

    act: str
    path: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong at the calls that match.

    Attributes:
        act: the act, as a pattern of fnmatch.
        path: the path, as a pattern of fnmatch.
        error: makes what is raised; None raises nothing, which leaves `meanwhile`.
        when: before the effect; midway, where a read is cut and a disk is full; or after the effect, the answer lost.
        first: the first of the matching calls that it strikes, from 1.
        times: how many calls it strikes, one after the other; None strikes all that follow.
        spreads: having struck, it strikes every later call, whatever it is: credentials that have run out.
        meanwhile: what others do while the call takes its time, before its effect or between effect and answer.
    """

    act: str = "*"
    path: str = "*"
    error: Error | None = None
    when: Literal["before", "midway", "after"] = "before"
    first: int = 1
    times: int | None = 1
    spreads: bool = False
    meanwhile: Callable[[], object] | None = None

    def matches(self, call: Call) -> bool:
        return fnmatchcase(call.act, self.act) and fnmatchcase(call.path, self.path)


class FaultyBackend:
    """A backend whose calls go wrong as told; where several faults meet at a call, the first of them strikes.

    Attributes:
        inner: the backend that does what is not kept from it.
        calls: every call so far.
        struck: those that a fault struck.
        after_each: told of every call when it has ended, well or not.
    """

    def __init__(self, inner: Backend, *faults: Fault, after_each: Callable[[Call], None] | None = None) -> None:
        self.inner, self.after_each = inner, after_each
        self.calls: list[Call] = []
        self.struck: list[Call] = []
        self._faults = faults
        self._matched = [0] * len(faults)
        self._lock = threading.Lock()

    def read(self, path: str) -> bytes:
        return self._do(Call("read", path), lambda: self.inner.read(path))

    def open(self, path: str) -> IO[bytes]:
        opened = self._do(Call("open", path), lambda: self.inner.open(path))
        return io.BufferedReader(_Parts(self, path, opened))

    def local_copy(self, path: str, folder: Path) -> Path:
        def half() -> None:
            data = self.inner.read(path)
            (folder / uuid.uuid4().hex).write_bytes(data[: len(data) // 2])

        return self._do(Call("local_copy", path), lambda: self.inner.local_copy(path, folder), half)

    def exists(self, path: str) -> bool:
        return self._do(Call("exists", path), lambda: self.inner.exists(path))

    def list(self, folder: str) -> dict[str, int]:
        return self._do(Call("list", folder), lambda: self.inner.list(folder))

    def write(self, path: str, data: bytes, *, create: bool) -> None:
        def half() -> None:
            if isinstance(self.inner, Disk):
                with _full_disk():
                    self.inner.write(path, data, create=create)

        self._do(Call("create" if create else "put", path), lambda: self.inner.write(path, data, create=create), half)

    def write_file(self, path: str, file: Path) -> None:
        self._do(Call("create_from", path), lambda: self.inner.write_file(path, file))

    def copy(self, source: str, target: str) -> None:
        self._do(Call("copy", target), lambda: self.inner.copy(source, target))

    def delete(self, folder: str) -> None:
        def half() -> None:
            found = [] if self.is_file(folder) else sorted(self.inner.list(folder))
            for path in found[: (len(found) + 1) // 2]:
                self.inner.delete(path) if not isinstance(self.inner, Disk) else self.inner.full(path).unlink()

        self._do(Call("delete", folder), lambda: self.inner.delete(folder), half)

    def is_file(self, path: str) -> bool:
        return isinstance(self.inner, Disk) and self.inner.full(path).is_file()

    def _do(self, call: Call, effect: Callable[[], _T], half: Callable[[], object] | None = None) -> _T:
        fault = self._meet(call)
        try:
            if fault and fault.when == "midway" and half:
                half()
            if fault and fault.when != "after":
                _strike(fault)
            result = effect()
            if fault and fault.when == "after":
                _strike(fault)
            return result
        finally:
            if self.after_each:
                self.after_each(call)

    def _meet(self, call: Call) -> Fault | None:
        """Note a call; return the fault that strikes it."""
        with self._lock:
            self.calls.append(call)
            striking = None
            for number, fault in enumerate(self._faults):
                spread = fault.spreads and self._matched[number] >= fault.first
                if not spread and not fault.matches(call):
                    continue
                self._matched[number] += 1
                past = self._matched[number] - fault.first
                if past >= 0 and (spread or fault.times is None or past < fault.times):
                    striking = striking or fault
            if striking:
                self.struck.append(call)
            return striking


def faulty(
    store: Store, *faults: Fault, after_each: Callable[[Call], None] | None = None
) -> tuple[Store, FaultyBackend]:
    """Return a store like `store` on which these things go wrong, and its backend."""
    backend = FaultyBackend(store.backend, *faults, after_each=after_each)
    failing = Store(store.uri, store.options)
    failing.__dict__["backend"] = backend
    return failing, backend


def _strike(fault: Fault) -> None:
    if fault.meanwhile:
        fault.meanwhile()
    if fault.error:
        raise fault.error()


class _Parts(io.RawIOBase):
    """An opened object; every read of a part of it is a call."""

    def __init__(self, backend: FaultyBackend, path: str, opened: IO[bytes]) -> None:
        super().__init__()
        self._backend, self._path, self._opened = backend, path, opened

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._opened.seek(offset, whence)

    def tell(self) -> int:
        return self._opened.tell()

    def readinto(self, buffer: Any) -> int:
        def read() -> int:
            data = self._opened.read(len(buffer))
            buffer[: len(data)] = data
            return len(data)

        return self._backend._do(Call("part", self._path), read)

    def close(self) -> None:
        self._opened.close()
        super().close()


@contextmanager
def _full_disk() -> Iterator[None]:
    """Let every file that a Disk writes meanwhile run out of space at its middle; not for several threads at once."""
    with patch.object(pipelines.backends, "open", _open_torn, create=True):
        yield


def _open_torn(path: Any, mode: str) -> Any:
    return open(path, mode) if mode == "rb" else _Torn(path, mode)


class _Torn(io.FileIO):
    """A file on a disk that is full after the first half of what is written."""

    def write(self, data: Any) -> int:
        super().write(data[: len(data) // 2])
        raise full()
