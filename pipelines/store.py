"""The lake's store: whole objects by relative path, create-once, and the same patience with every failure.

Everything is built first and then put with one call, because closing a half-written fsspec file publishes it. What
trying again may mend is tried up to TRIES times; what stays refused is a StoreError that names act and object.
"""

import errno
import filecmp
import os
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import fsspec

from pipelines.backends import S3, Backend, Disk
from pipelines.errors import RecipeError, StoreError
from schemas import layout
from workers.source import local_path
from workers.stores import fsspec_options, is_s3

if TYPE_CHECKING:  # workers come without pydantic
    from pipelines.recipe_sections import LakeSection

TRIES: Final = 4
FIRST_PAUSE_SECONDS: Final = 0.25
FINAL_ERRORS: Final = (FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)
FINAL_NUMBERS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Store:
    """A root in a local file system or in S3, with paths relative to it. Pickles as its address."""

    uri: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_s3(self.uri) and local_path(self.uri) is None:
            raise RecipeError(
                f"a lake cannot lie in {self.uri}: create-once writes are proven for s3:// and local paths only"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.uri, dict(self.options))

    @property
    def is_local(self) -> bool:
        """Whether the root is a local folder."""
        return not is_s3(self.uri)

    @cached_property
    def backend(self) -> Backend:
        """What does the single acts."""
        return Disk(self._root) if self.is_local else S3(self._root, fsspec_options(self.uri, self.options))

    @property
    def filesystem(self) -> Any:
        """The fsspec file system, for readers that take one."""
        return fsspec.core.url_to_fs(self.uri, **fsspec_options(self.uri, self.options))[0]

    @cached_property
    def _root(self) -> str:
        local = local_path(self.uri)
        return os.path.abspath(local) if local is not None else self.uri.split("://", 1)[1].rstrip("/")

    def full(self, path: str) -> str:
        """Return `path` with the root: an absolute path, or bucket and key."""
        return f"{self._root}/{path}"

    def url(self, path: str) -> str:
        """Return `path` as a reader outside would name it: absolute, or with its scheme."""
        return self.full(path) if self.is_local else f"s3://{self.full(path)}"

    def read(self, path: str) -> bytes:
        """Return an object's bytes; FileNotFoundError where there is none."""
        return self._retried(f"read {self.url(path)}", lambda: self.backend.read(path))

    def read_parts(self, path: str, use: Callable[[IO[bytes]], _T]) -> _T:
        """Return what `use` makes of an opened object of which it reads parts; all of that is tried again."""

        def attempt() -> _T:
            with self.backend.open(path) as file:
                return use(file)

        return self._retried(f"read {self.url(path)}", attempt)

    def exists(self, path: str) -> bool:
        """Whether an object is there now."""
        return self._retried(f"look for {self.url(path)}", lambda: self.backend.exists(path))

    def list(self, folder: str) -> dict[str, int]:
        """Return the objects under `folder`, at any depth and sorted, with their sizes; empty where there is none."""
        act = f"list {self.url(folder)}"
        found = self._retried(act, lambda: self.backend.list(folder), missing_is_final=True)  # then the bucket is
        return dict(sorted(found.items()))

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        """Give a local folder for big files on their way, gone afterwards; beside a local lake, so that they link."""
        parent = Path(self.full(layout.TEMPORARY)) if self.is_local else None
        if parent:
            parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="phonolake-", dir=parent) as folder:
            yield Path(folder)

    def local_copy(self, path: str, folder: Path) -> Path:
        """Return a local file that holds an object: the object itself, or its copy in `folder`.

        Raises:
            FileNotFoundError: there is no such object.
        """
        return self._retried(f"read {self.url(path)}", lambda: self.backend.local_copy(path, folder))

    def put(self, path: str, data: bytes | memoryview) -> None:
        """Write an object under a name that nobody else uses."""

        def attempt() -> None:
            try:
                self.backend.write(path, data, create=False)
            except Exception:
                if not self.backend.exists(path):  # it appears whole or not at all: the answer alone was lost
                    raise

        self._retried(f"write {self.url(path)}", attempt, missing_is_final=True)

    def create(self, path: str, data: bytes | memoryview) -> bool:
        """Write an object unless there is one; return whether the object there is ours.

        After any error the object is read back and compared, because a lost response looks like a loss. `data` must
        therefore be unique to the writer (hold its id), or the same whoever writes it.
        """
        write = lambda: self.backend.write(path, data, create=True)  # noqa: E731 - an act to try
        return self._created(path, write, lambda: self.backend.read(path) == data)

    def create_from(self, path: str, file: Path) -> bool:
        """Write an object from a local file unless there is one; return whether the object there is ours."""
        return self._created(path, lambda: self.backend.write_file(path, file), lambda: self._holds(path, file))

    def _created(self, path: str, write: Callable[[], None], is_ours: Callable[[], bool]) -> bool:
        def attempt() -> bool:
            try:
                write()
            except Exception:
                if not self.backend.exists(path):
                    raise
                return is_ours()
            return True

        return self._retried(f"create {self.url(path)}", attempt, missing_is_final=True)

    def _holds(self, path: str, file: Path) -> bool:
        """Whether an object has the bytes of a local file."""
        with self.work_folder() as folder:
            return filecmp.cmp(self.backend.local_copy(path, folder), file, shallow=False)

    def check_create_once(self, path: str) -> None:
        """Make sure that the store keeps an object that exists when it is created again.

        Raises:
            RecipeError: it does not, so that two drivers could undo each other's decisions.
        """

        def overwrites() -> bool:
            try:
                self.backend.write(path, uuid.uuid4().hex.encode(), create=True)
            except FileExistsError:
                return False
            return True

        self.create(path, uuid.uuid4().hex.encode())
        if self._retried(f"create {self.url(path)} again", overwrites):
            raise RecipeError(
                f"a lake cannot lie in {self.uri}: this store overwrites where If-None-Match forbids it; use another"
            )

    def copy(self, source: str, target: str) -> None:
        """Give an object a second, final name without moving its bytes through here: link or server-side copy.

        Whoever copies to `target` copies the same bytes, so an object that is there already may stay or be replaced.
        FileNotFoundError where there is no source.
        """
        self._retried(f"copy {self.url(source)} to {self.url(target)}", lambda: self.backend.copy(source, target))

    def delete(self, path: str) -> None:
        """Delete an object, if it is there."""
        self._retried(f"delete {self.url(path)}", lambda: self.backend.delete(path))

    def delete_folder(self, folder: str) -> None:
        """Delete what is under `folder`; others may do so too."""
        self._retried(f"delete {self.url(folder)}", lambda: self.backend.delete(folder))

    def _retried(self, act: str, action: Callable[[], _T], *, missing_is_final: bool = False) -> _T:
        """Do `action`, up to TRIES times with growing, jittered pauses; what stays refused is a StoreError."""
        for attempt in range(1, TRIES + 1):
            try:
                return action()
            except FileNotFoundError as error:
                if not missing_is_final:
                    raise
                if attempt == TRIES or not self.is_local:  # there is no bucket; a folder is made anew by the next try
                    raise StoreError(f"cannot {act}: {error}") from error
            except FINAL_ERRORS as error:
                raise StoreError(f"cannot {act}: {error}") from error
            except Exception as error:
                if attempt == TRIES or (isinstance(error, OSError) and error.errno in FINAL_NUMBERS):
                    raise StoreError(f"cannot {act}: {type(error).__name__}: {error}{_hint(error)}") from error
                time.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")


def lake_store(lake: "LakeSection") -> Store:
    """Return the store of a recipe's lake."""
    return Store(lake.uri, lake.storage.options())


def _hint(error: Exception) -> str:
    """Return what an error says between the lines: to a HEAD request S3 answers 400 without a reason."""
    bare = isinstance(error, OSError) and error.errno == errno.EINVAL and "Bad Request" in str(error)
    return " (so a store answers credentials that have expired: renew them)" if bare else ""
