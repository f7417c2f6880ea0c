"""What a lake may lie on: a disk or S3. Single tries of single acts; the Store above adds names, retries and proof.

Everything that is written appears at once and whole under its name. Create-once is a hard link on a disk and
`If-None-Match: *` on S3; both raise FileExistsError where the name is taken.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, Protocol

import fsspec

from schemas import layout

TRANSFER: Final = {"chunksize": 16 << 20, "max_concurrency": 4}  # of files to and from S3: parts in memory at once


class Backend(Protocol):
    """Objects by path relative to a root. FileNotFoundError where there is none."""

    def read(self, path: str) -> bytes:
        """Return an object's bytes."""

    def open(self, path: str) -> IO[bytes]:
        """Open an object to read parts of it."""

    def local_copy(self, path: str, folder: Path) -> Path:
        """Return a local file that holds an object: the object itself, or a copy made in `folder`."""

    def exists(self, path: str) -> bool:
        """Whether an object, or a folder with any, is there now."""

    def list(self, folder: str) -> dict[str, int]:
        """Return the objects under a folder, at any depth, with their sizes."""

    def write(self, path: str, data: bytes | memoryview, *, create: bool) -> None:
        """Write an object; to `create`, only where there is none."""

    def write_file(self, path: str, file: Path) -> None:
        """Create an object from a local file, only where there is none."""

    def copy(self, source: str, target: str) -> None:
        """Give an object a second name without moving its bytes through here; a target that is there may stay."""

    def delete(self, folder: str) -> None:
        """Delete an object, or what is under a folder, if anything; an OSError where another writes there meanwhile."""


class Disk:
    """A folder of a POSIX file system. What it has written is on the disk, name and bytes, before it returns."""

    def __init__(self, root: str) -> None:
        self.root = root

    def full(self, path: str) -> Path:
        """Return the absolute path of an object."""
        return Path(self.root, path)

    def read(self, path: str) -> bytes:
        """Return an object's bytes."""
        return self.full(path).read_bytes()

    def open(self, path: str) -> IO[bytes]:
        """Open an object."""
        return open(self.full(path), "rb")

    def local_copy(self, path: str, folder: Path) -> Path:
        """Return the object itself."""
        if not self.full(path).is_file():
            raise FileNotFoundError(f"{self.full(path)} does not exist")
        return self.full(path)

    def exists(self, path: str) -> bool:
        """Whether it is there now."""
        return self.full(path).exists()

    def list(self, folder: str) -> dict[str, int]:
        """Return the files under a folder; what vanishes meanwhile may be left out."""
        found = {}
        for parent, _, names in os.walk(self.full(folder), onerror=_raise_unless_missing):
            for name in names:
                file = Path(parent, name)
                try:
                    found[file.relative_to(self.root).as_posix()] = file.stat().st_size
                except FileNotFoundError:
                    continue
        return found

    def write(self, path: str, data: bytes | memoryview, *, create: bool) -> None:
        """Write a temporary file and give it its name."""

        def fill(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

        self._place(path, fill, os.link if create else os.replace)

    def write_file(self, path: str, file: Path) -> None:
        """Link a file of the same file system to its name, or a copy of one of another."""
        self._place(path, lambda temporary: _link_or_copy(file, temporary), os.link)

    def copy(self, source: str, target: str) -> None:
        """Link an object to a second name."""
        self.full(target).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(self.full(source), self.full(target))
        except FileExistsError:
            return
        _sync(self.full(target).parent)

    def delete(self, folder: str) -> None:
        """Delete a folder, or a file."""
        if self.full(folder).is_file():
            self.full(folder).unlink(missing_ok=True)
            return
        shutil.rmtree(self.full(folder), onerror=lambda _act, _path, info: _raise_unless_missing(info[1]))

    def _place(self, path: str, fill: Callable[[Path], None], name: Callable[[Path, Path], None]) -> None:
        target, temporary = self.full(path), self.full(f"{layout.TEMPORARY}/{uuid.uuid4().hex}")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            fill(temporary)
            name(temporary, target)  # a link fails where the name is taken: the one atomic create-once of POSIX
            _sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _raise_unless_missing(error: BaseException) -> None:
    """Raise what os.walk and rmtree would pass over; what is gone was deleted by another."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _link_or_copy(file: Path, temporary: Path) -> None:
    try:
        os.link(file, temporary)
    except OSError:  # another file system
        shutil.copyfile(file, temporary)
    _sync(temporary)


def _sync(path: Path) -> None:
    """Make sure that a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _told_as_taken() -> Iterator[None]:
    """Raise FileExistsError where S3 says 412, which s3fs tells as an OSError of a wrong argument."""
    try:
        yield
    except OSError as error:
        if "PreconditionFailed" in str(error.__cause__):
            raise FileExistsError(str(error)) from error
        raise


class S3:
    """A prefix in a bucket of S3, or of what speaks its protocol."""

    def __init__(self, root: str, options: Mapping[str, Any]) -> None:
        """Take `bucket/prefix`, and what s3fs is to be made with."""
        self.root, self._options = root, options

    @property
    def filesystem(self) -> Any:
        """The fsspec file system, with nothing remembered of what it listed before."""
        filesystem = fsspec.filesystem("s3", **self._options)
        filesystem.invalidate_cache()
        return filesystem

    def full(self, path: str) -> str:
        """Return bucket and key of an object."""
        return f"{self.root}/{path}"

    def read(self, path: str) -> bytes:
        """Return an object's bytes."""
        return bytes(self.filesystem.cat_file(self.full(path)))

    def open(self, path: str) -> IO[bytes]:
        """Open an object; parts of it are fetched as they are read."""
        opened: IO[bytes] = self.filesystem.open(self.full(path), "rb")
        return opened

    def local_copy(self, path: str, folder: Path) -> Path:
        """Download an object."""
        local = folder / uuid.uuid4().hex
        self.filesystem.get_file(self.full(path), str(local), **TRANSFER)
        return local

    def exists(self, path: str) -> bool:
        """Whether it is there now."""
        return bool(self.filesystem.exists(self.full(path)))

    def list(self, folder: str) -> dict[str, int]:
        """Return the objects under a prefix."""
        found = self.filesystem.find(self.full(folder), detail=True, withdirs=False)
        return {  # some stores list a folder that was emptied
            name[len(self.root) + 1 :]: int(entry["size"] or 0)
            for name, entry in found.items()
            if entry["type"] != "directory"
        }

    def write(self, path: str, data: bytes | memoryview, *, create: bool) -> None:
        """Put an object."""
        with _told_as_taken():
            self.filesystem.pipe_file(self.full(path), bytes(data), **({"mode": "create"} if create else {}))

    def write_file(self, path: str, file: Path) -> None:
        """Upload a file."""
        with _told_as_taken():
            self.filesystem.put_file(str(file), self.full(path), mode="create", **TRANSFER)

    def copy(self, source: str, target: str) -> None:
        """Copy within the store."""
        self.filesystem.cp_file(self.full(source), self.full(target))

    def delete(self, folder: str) -> None:
        """Delete a prefix."""
        with suppress(FileNotFoundError):
            self.filesystem.rm(self.full(folder), recursive=True)
