"""The recipe's stores: what may be listed and read at the source, and whether the lake keeps what a run relies on."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import obstore

from pipelines.doctor.check import Check, Checks, ok, tried, warning
from pipelines.doctor.machine import check_disk
from pipelines.errors import RecipeError, StoreError
from pipelines.fsspec_listing import list_by_fsspec
from pipelines.globs import split_glob
from pipelines.manifest import read_manifest
from pipelines.places import refuse_unreachable
from pipelines.recipe import Recipe
from pipelines.recipe_sections import SourceSection
from pipelines.refusals import store_error
from pipelines.store import Store, lake_store
from schemas import layout
from workers.objects import ObjectError, read_range
from workers.source import Source, local_path
from workers.stores import ReadingStopped, is_s3, s3_store, split_s3

READ_BYTES: Final = 1024
MOST_SKEW_SECONDS: Final = 60.0  # S3 refuses requests from 15 minutes on

SOURCE_DO: Final = "see source in the recipe, and that the reader may list and get (deploy/ has the policies)"
LAKE_DO: Final = "see lake in the recipe, and that the writer may list, get, put and delete (deploy/ has the policies)"


def store_checks(recipe: Recipe) -> Checks:
    """Check source and lake; nothing stays behind."""
    yield tried("source", lambda: check_source(recipe.source), SOURCE_DO)
    store = lake_store(recipe.lake)
    lake = tried("lake", lambda: check_lake(store), LAKE_DO)
    yield lake
    if store.is_local:
        yield check_disk("disk: lake", Path(store.full("")))
    elif lake.state == "ok":  # some servers make a bucket that is not there of the first write to it
        yield tried("clock", lambda: check_clock(store), LAKE_DO)


def check_source(section: SourceSection) -> Check:
    """List the source as far as its first object, and read the beginning of that; of a manifest, read it."""
    refuse_unreachable(section)
    options = section.storage.options()
    if section.manifest is not None:
        entries = read_manifest(section.manifest, options, section.allow)
        return ok("source", f"{section.manifest} is read: {entries.num_rows:,} entries; their objects are not tried")
    uri, size = _first(section)
    try:
        read = read_range(Source(uri, None, size, None), 0, min(size, READ_BYTES), options)
    except (ObjectError, ReadingStopped) as error:
        raise StoreError(error.message if isinstance(error, ObjectError) else str(error)) from None
    return ok("source", f"{section.where} is listed, and {uri} gives its first {len(read)} bytes")


def _first(section: SourceSection) -> tuple[str, int]:
    """Return uri and size of an object of the source."""
    where = section.where
    taken_literally = local_path(where) is not None and os.path.exists(where)
    base = where if taken_literally else split_glob(where)[0]
    if is_s3(where):
        return _first_on_s3(base, section)
    path = local_path(base)
    return _first_on_disk(path) if path is not None else _first_elsewhere(base, section)


def _first_on_s3(base: str, section: SourceSection) -> tuple[str, int]:
    bucket, key = split_s3(base)
    try:
        store = s3_store(bucket, tuple(sorted(section.storage.options().items())))
        if key and not key.endswith("/"):
            with suppress(FileNotFoundError):
                return base, int(obstore.head(store, key)["size"])
        for page in obstore.list(store, key.rstrip("/") or None, chunk_size=100):
            for one in page:
                if one["size"]:
                    return f"s3://{bucket}/{one['path']}", int(one["size"])
    except Exception as error:  # each library has its own
        raise store_error(f"s3://{bucket}", error) from None
    raise RecipeError(f"there is no object in {base}")


def _first_on_disk(path: str) -> tuple[str, int]:
    if os.path.isfile(path):
        return path, os.stat(path).st_size
    if not os.path.isdir(path):
        raise RecipeError(f"there is no folder {path}")
    for folder, _, names in os.walk(path, onerror=_raise):
        for name in sorted(names):
            size = os.stat(os.path.join(folder, name)).st_size
            if size:
                return os.path.join(folder, name), size
    raise RecipeError(f"there is no object in {path}")


def _first_elsewhere(base: str, section: SourceSection) -> tuple[str, int]:
    found = list_by_fsspec(base, section.storage.options())
    first = next(((uri, size) for uri, _, size, _ in found if size), None)
    if first is None:
        raise RecipeError(f"there is no object in {base}")
    return first


def _raise(error: OSError) -> None:
    raise error


def check_lake(store: Store) -> Check:
    """List, write, read, create once, copy and delete in the lake."""
    with _scratch(store) as folder:
        store.list(layout.RUNS)
        content = uuid.uuid4().hex.encode()
        store.put(f"{folder}/written", content)
        if store.read(f"{folder}/written") != content:
            raise StoreError(f"{store.url(folder)}/written is not what was written to it")
        store.check_create_once(f"{folder}/created")
        store.copy(f"{folder}/written", f"{folder}/copied")
        store.delete(f"{folder}/copied")
        if f"{folder}/copied" in store.list(folder):
            raise StoreError(f"{store.url(folder)}/copied was deleted and is still listed")
    return ok("lake", f"{store.uri}: list, write, read, create once, copy and delete")


def check_clock(store: Store) -> Check:
    """Compare this machine's clock with the time the store gives an object that was written just now."""
    with _scratch(store) as folder:
        store.put(f"{folder}/clock", b"tick")
        info = store.filesystem.info(store.full(f"{folder}/clock"))
    skew = (datetime.now(UTC) - info["LastModified"]).total_seconds()
    said = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the store's"
    if abs(skew) > MOST_SKEW_SECONDS:
        return warning("clock", said, "set this machine's clock (NTP): S3 refuses requests that are 15 minutes off")
    return ok("clock", said)


@contextmanager
def _scratch(store: Store) -> Iterator[str]:
    """Give a folder of staging that nobody reads, and take away all that was made for it."""
    folder = f"{layout.TEMPORARY}/doctor-{uuid.uuid4().hex}"
    parents = [Path(store.full(folder)), *Path(store.full(folder)).parents] if store.is_local else []
    made = [parent for parent in parents if not parent.exists()]
    try:
        yield folder
    finally:
        with suppress(StoreError):  # what went wrong before says more
            store.delete_folder(folder)
        for parent in made:  # of a lake that is not there yet, nothing stays
            with suppress(OSError):
                parent.rmdir()
