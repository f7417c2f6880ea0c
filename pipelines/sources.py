"""Which objects a corpus holds: one listing, on the driver, as Arrow columns.

A prefix is listed in parallel over its sub-prefixes. No Python object per listed object outlives its batch, so that a
million objects are some 200 MB of Arrow columns.
"""

import errno
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import Any, Final

import obstore
import pyarrow as pa
import pyarrow.compute as pc
from obstore.exceptions import BaseError, InvalidPathError

from pipelines.errors import RecipeError, StoreError
from pipelines.fsspec_listing import list_by_fsspec
from pipelines.globs import GLOB_CHARACTERS, matches, split_glob
from pipelines.listing import BATCH_ROWS, LISTING, Rows, batches, listed, local_name, local_row
from pipelines.manifest_lookups import list_manifest
from pipelines.recipe_sections import SourceSection
from pipelines.refusals import store_error
from pipelines.shards import PARQUET_SUFFIXES, TAR_SUFFIXES, KeptShards, list_parquets, list_tars
from workers.source import local_path
from workers.stores import Options, ReadingStopped, is_s3, s3_store, split_s3

logger = logging.getLogger(__name__)

LISTERS: Final = 16
SPREAD: Final = 4 * LISTERS  # sub-prefixes to aim for before listing in earnest
BROKEN: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What is said of a file that is deleted meanwhile, and of a link that leads nowhere, through a file or to itself."""

MACOS_FILES: Final = r"/(\._[^/]*|\.DS_Store)$"


def list_source(source: SourceSection, kept: KeptShards | None = None) -> pa.Table:
    """Return the recordings of a source, schema LISTING, each uri once; `kept` knows what lies inside known shards.

    Raises:
        RecipeError: the bucket, folder or manifest does not exist, or no object is there.
        StoreError: the store refuses the credentials or does not answer.
    """
    options = source.storage.options()
    if source.manifest is not None:
        listing = list_manifest(source, options)
    elif source.tar is not None:
        listing = list_tars(_shards(source.tar, TAR_SUFFIXES, options), options, kept)
    elif source.parquet is not None:
        shards = _shards(source.parquet, PARQUET_SUFFIXES, options)
        listing = list_parquets(shards, options, kept, source.audio_column)
    else:
        listing = _list_uri(source.where, options)
    listing = _chosen(listing, source)
    if not listing.num_rows:
        raise RecipeError(f"there is no object in {source.where}; check source in the recipe")
    return listing


def _shards(uri: str, suffixes: tuple[str, ...], options: Options) -> pa.Table:
    """List the files under a uri whose names say that they are shards."""
    listing = _list_uri(uri, options)
    endings = pc.utf8_lower(pc.utf8_slice_codeunits(listing["uri"], -max(map(len, suffixes))))
    named = [pc.ends_with(endings, suffix) for suffix in suffixes]
    return listing.filter(reduce(pc.or_, named))


def _list_uri(uri: str, options: Options) -> pa.Table:
    local = local_path(uri)
    taken_literally = local is not None and os.path.exists(local)  # a folder may be called show [2024]
    base, pattern = (local or uri, None) if taken_literally else split_glob(uri if local is None else _normal(local))
    if is_s3(uri):
        found: Iterable[pa.RecordBatch] = _list_s3(base, options)
    elif local is not None:
        found = batches(_walk_local(base))
    else:
        found = batches(list_by_fsspec(base, options))
    listing = _without_finders(pa.Table.from_batches(found, LISTING), uri)
    return listing.filter(matches(listing["uri"], [pattern])) if pattern else listing


def _without_finders(listing: pa.Table, where: str) -> pa.Table:
    """Leave out what macOS puts beside the files of a folder that it looks at or copies: one more for each of them."""
    finders = pc.match_substring_regex(listing["uri"], MACOS_FILES)
    count = pc.sum(finders).as_py() or 0
    if count == listing.num_rows:  # nothing else is there, or one of them is asked for
        return listing
    if count:
        logger.warning("%s: files of macOS (._*, .DS_Store) are no recordings and left out: %d", where, count)
    return listing.filter(pc.invert(finders))


def _normal(path: str) -> str:
    """Return a glob as the paths are written that are found: absolute, without //, . and .."""
    return os.path.abspath(path) if any(character in path for character in GLOB_CHARACTERS) else path


def _chosen(listing: pa.Table, source: SourceSection) -> pa.Table:
    """Apply include and exclude: globs over the whole uri, or over its end where they do not start with a scheme."""
    if source.include:
        listing = listing.filter(pc.or_(matches(listing["uri"], source.include), _damaged(listing)))
    if source.exclude:
        listing = listing.filter(pc.or_(pc.invert(matches(listing["uri"], source.exclude)), _damaged(listing)))
    return listing


def _damaged(listing: pa.Table) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(pc.struct_field(listing["problem"], "code"), "shard_damaged"), False)


# S3


def _list_s3(base: str, options: Options) -> Iterator[pa.RecordBatch]:
    bucket, key = split_s3(base)
    try:
        store = s3_store(bucket, tuple(sorted(options.items())))
        if key and not key.endswith("/") and (one := _head(store, key)) is not None:
            etag, size, time = one
            yield from batches([(base, etag, size, time)])
            return
        prefixes, found = _spread(store, key.rstrip("/"))
        with ThreadPoolExecutor(LISTERS) as listers:
            for listed in listers.map(lambda prefix: list(_list_prefix(store, prefix)), prefixes):
                found += listed
    except InvalidPathError:  # keys with // or /./, which obstore does not take: s3fs does
        yield from batches(list_by_fsspec(base, options))
        return
    except (BaseError, FileNotFoundError, ReadingStopped) as error:
        raise store_error(f"s3://{bucket}", error) from None
    folders = _folders(found)
    yield from (_from_obstore(bucket, batch, folders) for batch in found)


def _head(store: Any, key: str) -> tuple[str | None, int, int] | None:
    try:
        head = obstore.head(store, key)
    except FileNotFoundError:
        return None
    return (head["e_tag"] or "").strip('"') or None, head["size"], int(head["last_modified"].timestamp() * 1e9)


def _spread(store: Any, prefix: str) -> tuple[list[str], list[pa.RecordBatch]]:
    """Descend level by level until there are enough sub-prefixes to share out; return them and what lay above."""
    prefixes, above = [prefix], []
    while 0 < len(prefixes) < SPREAD:
        levels = [obstore.list_with_delimiter(store, one or None, return_arrow=True) for one in prefixes]
        deeper = [name for level in levels for name in level["common_prefixes"]]
        above += [batch for level in levels for batch in pa.table(level["objects"]).to_batches()]
        prefixes = deeper
    return prefixes, above


def _list_prefix(store: Any, prefix: str) -> Iterator[pa.RecordBatch]:
    for batch in obstore.list(store, prefix or None, chunk_size=BATCH_ROWS, return_arrow=True):
        yield pa.record_batch(batch)


def _folders(found: list[pa.RecordBatch]) -> pa.Array:
    """Return the keys that other keys lie under."""
    folders: set[str] = set()
    for batch in found:
        parents = pc.replace_substring_regex(batch["path"].cast(pa.string()), r"/?[^/]*$", "")
        for parent in pc.unique(parents).to_pylist():
            while parent and parent not in folders:
                folders.add(parent)
                parent = parent.rpartition("/")[0]
    return pa.array(sorted(folders), pa.string())


def _from_obstore(bucket: str, batch: pa.RecordBatch, folders: pa.Array) -> pa.RecordBatch:
    """Return obstore's columns as ours; empty objects that consoles make to stand for folders are dropped."""
    marker = pc.and_(pc.equal(batch["size"], 0), pc.is_in(batch["path"].cast(pa.string()), value_set=folders))
    batch = batch.filter(pc.invert(marker))
    uris = pc.binary_join_element_wise(f"s3://{bucket}", batch["path"].cast(pa.string()), "/")
    modified = batch["last_modified"].cast(pa.timestamp("ns", tz="UTC")).cast(pa.int64())
    etags = pc.utf8_trim(batch["e_tag"].cast(pa.string()), '"')
    return listed(uris, etags, batch["size"].cast(pa.int64()), modified)


# Local


def _walk_local(root: str) -> Rows:
    if os.path.isfile(root):
        yield local_row(root)
        return
    if not os.path.isdir(root):
        raise RecipeError(f"there is no folder {root}; check source in the recipe")
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = [(root.rstrip("/") or "/", frozenset())]
    while folders:
        folder, above = folders.pop()
        try:
            status, entries = os.stat(folder), sorted(os.scandir(folder), key=lambda one: one.name)
        except FileNotFoundError:  # deleted meanwhile
            continue
        except OSError as error:
            raise StoreError(f"the folder {folder} cannot be listed: {error}") from None
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link that leads back up
            continue
        for entry in entries:
            try:
                if entry.is_dir():
                    folders.append((entry.path, above | {here}))
                elif entry.is_file():
                    yield local_row(entry.path)
            except OSError as error:
                if error.errno not in BROKEN:
                    yield local_name(entry.path), None, 0, None  # reading it says why
