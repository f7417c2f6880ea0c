"""The lake's store: whole objects by relative path, and create-once.

Everything is built as bytes first and then put with one call, because closing a half-written fsspec file publishes
it. Create-once is `If-None-Match: *` on S3 and a hard link on a local disk; any other store is refused, since
fsspec's default there is check-then-write, which two writers can both pass.
"""

import os
import random
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

import fsspec

from pipelines.errors import RecipeError, StoreError
from schemas import layout
from workers.objects import fsspec_options, is_s3, local_path

TRIES: Final = 4
FIRST_PAUSE_SECONDS: Final = 0.25
FINAL_ERRORS: Final = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)

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
        return Store, (self.uri, dict(self.options))

    @property
    def is_local(self) -> bool:
        """Whether the root is a local folder."""
        return not is_s3(self.uri)

    @cached_property
    def filesystem(self) -> Any:
        """The fsspec file system."""
        return fsspec.core.url_to_fs(self.uri, **fsspec_options(self.uri, self.options))[0]

    @cached_property
    def _root(self) -> str:
        local = local_path(self.uri)
        return os.path.abspath(local) if local is not None else self.uri.split("://", 1)[1].rstrip("/")

    def full(self, path: str) -> str:
        """Return `path` as the file system knows it."""
        return f"{self._root}/{path}"

    def url(self, path: str) -> str:
        """Return `path` as a reader outside would name it: absolute, or with its scheme."""
        return self.full(path) if self.is_local else f"s3://{self.full(path)}"

    def read(self, path: str) -> bytes:
        """Return an object's bytes; FileNotFoundError where there is none."""
        return bytes(self._retried(f"read {self.url(path)}", lambda: self.filesystem.cat_file(self.full(path))))

    def exists(self, path: str) -> bool:
        """Whether an object is there now."""
        self.filesystem.invalidate_cache()
        return bool(self._retried(f"look for {self.url(path)}", lambda: self.filesystem.exists(self.full(path))))

    def list(self, folder: str) -> dict[str, int]:
        """Return the objects under `folder`, at any depth, with their sizes; empty where there is none."""
        self.filesystem.invalidate_cache()
        found = self._retried(
            f"list {self.url(folder)}",
            lambda: self.filesystem.find(self.full(folder), detail=True, withdirs=False),
            missing_is_final=True,  # only a missing bucket is an error; a missing folder is empty
        )
        start = len(self._root) + 1
        return {name[start:]: int(entry["size"] or 0) for name, entry in sorted(found.items())}

    def put(self, path: str, data: bytes) -> None:
        """Write an object under a name that nobody else uses."""
        self._retried(f"write {self.url(path)}", lambda: self._put(path, data), missing_is_final=True)

    def create(self, path: str, data: bytes) -> bool:
        """Write an object unless there is one; return whether the object there is ours.

        After any error the object is read back and compared, because a lost response looks like a loss. `data` must
        therefore be unique to the writer (hold its id), or the same whoever writes it.
        """

        def attempt() -> bool:
            try:
                self._put(path, data, create=True)
            except Exception:
                if not self.exists(path):
                    raise
                return self.read(path) == data
            return True

        return self._retried(f"create {self.url(path)}", attempt, missing_is_final=True)

    def check_create_once(self, path: str) -> None:
        """Make sure that the store keeps an object that exists when it is created again.

        Raises:
            RecipeError: it does not, so that two drivers could undo each other's decisions.
        """
        first, second = uuid.uuid4().hex.encode(), uuid.uuid4().hex.encode()
        self.create(path, first)
        if self.create(path, second):
            raise RecipeError(
                f"a lake cannot lie in {self.uri}: this store overwrites where If-None-Match forbids it; use another"
            )

    def copy(self, source: str, target: str) -> None:
        """Give an object a second, final name without moving its bytes through here: link or server-side copy.

        Whoever copies to `target` copies the same bytes, so an object that is there already may stay or be replaced.
        """
        self._retried(f"copy {self.url(source)} to {self.url(target)}", lambda: self._copy(source, target))

    def delete_folder(self, folder: str) -> None:
        """Delete what is under `folder`, as far as that goes: others may delete or even write there meanwhile."""
        for _ in range(TRIES):
            if not self.exists(folder):
                return
            with suppress(OSError):  # somebody else was faster at one of its files, or is still writing
                self.filesystem.rm(self.full(folder), recursive=True)

    def _put(self, path: str, data: bytes, *, create: bool = False) -> None:
        if self.is_local:
            self._put_local(path, data, create=create)
        else:
            self.filesystem.pipe_file(self.full(path), data, **({"mode": "create"} if create else {}))

    def _put_local(self, path: str, data: bytes, *, create: bool) -> None:
        target = Path(self.full(path))
        temporary = Path(self.full(f"{layout.STAGING}/tmp/{uuid.uuid4().hex}"))
        temporary.parent.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                if create:  # records that later runs build on are on the disk before their name is
                    file.flush()
                    os.fsync(file.fileno())
            if create:
                os.link(temporary, target)  # fails where the name is taken: the one atomic create-once of POSIX
            else:
                os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def _copy(self, source: str, target: str) -> None:
        if not self.is_local:
            self.filesystem.cp_file(self.full(source), self.full(target))
            return
        Path(self.full(target)).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(self.full(source), self.full(target))
        except FileExistsError:
            return

    def _retried(self, what: str, action: Callable[[], _T], *, missing_is_final: bool = False) -> _T:
        """Do `action`, up to TRIES times with growing, jittered pauses; what stays refused is a StoreError."""
        for attempt in range(1, TRIES + 1):
            try:
                return action()
            except FileNotFoundError as error:
                if missing_is_final:  # writing fails so where there is no bucket
                    raise StoreError(f"cannot {what}: {error}") from error
                raise
            except FINAL_ERRORS as error:
                raise StoreError(f"cannot {what}: {error}") from error
            except Exception as error:
                if attempt == TRIES or (isinstance(error, OSError) and error.errno == _NO_SPACE):
                    raise StoreError(f"cannot {what}: {type(error).__name__}: {error}") from error
                time.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")


_NO_SPACE: Final = 28  # ENOSPC
