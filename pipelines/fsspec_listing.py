"""Listing what only fsspec reaches: one folder after the other, and whatever is refused ends the listing."""

import random
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import fsspec

from pipelines.errors import RecipeError
from pipelines.listing import Rows
from pipelines.refusals import store_error
from workers.stores import Options, etag_of, fsspec_options, info_of, is_s3, is_web, time_of

PAGE: Final = "text/html"
PAUSES_SECONDS: Final = (0.5, 1.0, 2.0)  # before a web server is asked again


class UnknownLength(Exception):
    """A store does not tell how long an object is."""


def facts_of(info: Mapping[str, Any]) -> tuple[str | None, int, int | None]:
    """Return etag, size and time of what an fsspec file system knows of an object.

    Raises:
        UnknownLength: there is no size.
    """
    if info.get("size") is None:
        raise UnknownLength
    return etag_of(info), int(info["size"]), time_of(info)


def patient_info(filesystem: Any, path: str) -> Mapping[str, Any]:
    """Return what `info_of` does; a web server is asked again, as the libraries of other stores do themselves."""
    for pause in PAUSES_SECONDS if is_web(path) else ():
        try:
            return info_of(filesystem, path)
        except (FileNotFoundError, PermissionError):
            raise
        except Exception:  # what it is, the last try tells
            time.sleep(pause * random.uniform(0.5, 1.5))
    return info_of(filesystem, path)


def list_by_fsspec(root: str, options: Options) -> Rows:
    """Yield uri, etag, size and time of an object, or of all objects below a folder; nothing where none is there.

    Raises:
        RecipeError: the bucket is missing, a web server would have to be listed, or an object's length is not told.
        StoreError: a folder could not be listed, or the store did not answer.
    """
    if is_web(root) and (root.endswith("/") or "*" in root):
        raise _page(root)
    try:
        filesystem, path = fsspec.core.url_to_fs(root, **fsspec_options(root, options))
        for entry in _entries(filesystem, path, root):
            uri = _uri(root, path, entry["name"])
            try:
                yield uri, *facts_of(entry)
            except UnknownLength:
                raise RecipeError(f"{uri} cannot be read: its store does not say how long it is; copy it") from None
    except RecipeError:
        raise
    except Exception as error:  # each library has its own
        raise store_error(root, error) from None


def _entries(filesystem: Any, path: str, root: str) -> Iterator[Mapping[str, Any]]:
    if is_web(root):
        return _of_web(filesystem, path)
    filesystem.invalidate_cache()  # what an earlier listing of this process saw
    if is_s3(root):
        return _of_s3(filesystem, path)
    if filesystem.isfile(path):
        return iter([filesystem.info(path)])
    return _walk(filesystem, path)


def _of_s3(filesystem: Any, path: str) -> Iterator[Mapping[str, Any]]:
    """Yield all objects but those that consoles make to stand for folders.

    Folder by folder, s3fs would take a//b for something in a folder that holds itself.
    """
    found = filesystem.find(path, detail=True)
    filesystem.invalidate_cache()
    return (one for name, one in found.items() if one["size"] or not name.endswith("/"))


def _of_web(filesystem: Any, url: str) -> Iterator[Mapping[str, Any]]:
    try:
        info = patient_info(filesystem, url)
    except FileNotFoundError:
        return
    if info.get("mimetype") == PAGE:
        raise _page(url)
    yield info


def _page(url: str) -> RecipeError:
    return RecipeError(
        f"{url} is a page of a web server, which cannot be listed; name one file, or write the files' addresses into a "
        f"manifest: source: {{manifest: files.csv, allow: [http]}}"
    )


def _walk(filesystem: Any, root: str) -> Iterator[Mapping[str, Any]]:
    """Yield what lies below a folder; fsspec's own walk leaves out the folders that it cannot list."""
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = filesystem.ls(folder, detail=True)
        except FileNotFoundError:  # deleted meanwhile
            continue
        for entry in entries:
            if entry["type"] != "directory":
                yield entry
            elif entry["name"].strip("/") != folder.strip("/"):
                folders.append(entry["name"])


def _uri(root: str, path: str, name: str) -> str:
    """Return the uri of what a file system calls `name`; what it calls `path` is `root`, which may name a host too."""
    within = path.rstrip("/")
    if within and name.startswith(within):
        return root.rstrip("/") + name[len(within) :]
    return f"{root.split('://', 1)[0]}://{name.lstrip('/')}"
