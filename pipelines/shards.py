"""What lies inside shards: the members of WebDataset tars, the rows of Parquet files with a column of audio.

A shard is looked through once, from its headers, and what was found is kept beside the runs' records, named after the
shard's version; so the next night lists new shards only.
"""

import hashlib
import logging
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import RecipeError, StoreError
from pipelines.listing import LISTING
from pipelines.parquet import to_parquet
from pipelines.sidecars import SIDECAR_BYTES, SIDECARS, Notes, as_utf8, said_by, sample_key
from pipelines.store import Store
from schemas import layout
from workers.objects import ObjectError
from workers.shards import (
    DAMAGE,
    STREAM_BUFFER,
    audio_columns,
    entries,
    is_gzipped,
    open_shard,
    open_tar,
    uncompressed_bytes,
)
from workers.source import Source
from workers.stores import Options, ReadingStopped

logger = logging.getLogger(__name__)

_Member = dict[str, Any]  # name, size, piece, offset; metadata, problem where there are any

READERS: Final = 16
FORMAT: Final = 2  # of what is kept; raise it when that changes
HEADER_BUFFER: Final = 256 << 10  # bytes of a request where headers are read: a few small members, or one big one's
TAR_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")
PARQUET_SUFFIXES: Final = (".parquet", ".pq")
OTHERS: Final = frozenset(
    {
        *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".npy", ".npz", ".pt", ".pth", ".pkl", ".pyd", ".index"),
        *(".md", ".csv", ".tsv", ".xml", ".html", ".yaml", ".yml", ".log", ".pdf"),
        *(".textgrid", ".lab", ".srt", ".vtt", ".ctm", ".stm", ".rttm", ".eaf", ".trs", ".phn", ".wrd"),
    }
)
"""Members that are no audio and become no metadata: pictures, arrays, documents, labels and subtitles."""
APPLE_DOUBLE: Final = "._"  # how the names of files begin in which macOS keeps what tar has no place for
COLUMN_BYTES: Final = 64 << 20  # what a column of metadata may have in any row group of Parquet


@dataclass(frozen=True, slots=True)
class KeptShards:
    """Where it is kept what lies inside the shards of a corpus, and whether what is found is added."""

    store: Store
    corpus: str
    adds: bool

    def read(self, version: str) -> pa.Table | None:
        """Return what lies inside a shard, by the digest of its version; None where nobody looked yet."""
        try:
            content = self.store.read(layout.shard_file(self.corpus, version))
        except FileNotFoundError:
            return None
        return pq.read_table(pa.BufferReader(content)).cast(LISTING)

    def keep(self, version: str, members: pa.Table) -> None:
        """Keep what lies inside a shard; whoever keeps it keeps the same."""
        if self.adds:
            self.store.put(layout.shard_file(self.corpus, version), to_parquet(members))


def list_tars(shards: pa.Table, options: Options, kept: KeptShards | None) -> pa.Table:
    """Return the members of tars (schema LISTING of the shards) that may be audio, schema LISTING.

    Raises:
        StoreError: a shard could not be read.
    """
    return _members(shards, kept, "tar", lambda shard: _tar_members(shard, options))


def list_parquets(shards: pa.Table, options: Options, kept: KeptShards | None, audio_column: str | None) -> pa.Table:
    """Return the rows of Parquet files (schema LISTING of the files), schema LISTING.

    Raises:
        RecipeError: a file has no column of audio, or several.
        StoreError: a file could not be read.
    """
    how = f"parquet {audio_column}"
    return _members(shards, kept, how, lambda shard: _parquet_rows(shard, options, audio_column))


def _members(
    shards: pa.Table, kept: KeptShards | None, how: str, look: Callable[[Source], Iterable[_Member]]
) -> pa.Table:
    def members(row: dict[str, Any]) -> pa.Table:
        shard = Source(row["uri"], row["etag"], row["size_bytes"], row["modified_ns"])
        told = (FORMAT, how, shard.uri, shard.etag, shard.size_bytes, shard.modified_ns)
        version = hashlib.sha256("\0".join(map(str, told)).encode()).hexdigest()[:32]
        if kept is not None and (found := kept.read(version)) is not None:
            return found
        try:
            found = pa.Table.from_pylist([_as_listed(shard, member) for member in look(shard)], LISTING)
        except ObjectError as error:
            raise StoreError(f"cannot list what is in {shard.uri}: {error.message}") from error
        except ReadingStopped as error:
            raise StoreError(f"cannot list what is in {shard.uri}: {error}") from error
        if kept is not None:
            kept.keep(version, found)
        return found

    with ThreadPoolExecutor(READERS) as readers:
        return pa.concat_tables([LISTING.empty_table(), *readers.map(members, shards.to_pylist())])


def _as_listed(shard: Source, member: dict[str, Any]) -> dict[str, Any]:
    place = {"shard": shard.uri, "shard_bytes": shard.size_bytes, "piece": member["piece"], "offset": member["offset"]}
    return {
        "uri": f"{shard.uri}#{member['name']}",
        "etag": shard.etag,
        "size_bytes": member["size"],
        "modified_ns": shard.modified_ns,
        "metadata": member.get("metadata"),
        "place": place,
        "problem": member.get("problem"),
    }


# Tar


def _tar_members(shard: Source, options: Options) -> Iterator[_Member]:
    """Yield the members that may be audio, each with what its sidecars say."""
    gzipped = is_gzipped(shard.uri)
    members: list[dict[str, Any]] = []
    notes = Notes()
    try:
        with open_tar(shard, options, STREAM_BUFFER if gzipped else HEADER_BUFFER) as tar:
            for number, entry in enumerate(entries(tar)):
                if not gzipped and entry.isreg() and entry.offset_data + entry.size > shard.size_bytes:
                    raise tarfile.ReadError(f"it ends within {entry.name!r}")
                path = PurePosixPath(entry.name)
                suffix = path.suffix.lower()
                if path.name.startswith(APPLE_DOUBLE):
                    continue
                if suffix in SIDECARS and entry.isreg() and entry.size > SIDECAR_BYTES:
                    notes.too_long.append(as_utf8(entry.name))
                elif suffix in SIDECARS and entry.isreg():
                    content = tar.extractfile(entry)
                    notes.add(as_utf8(entry.name), list(said_by(suffix, content.read() if content else b"")))
                elif not entry.isdir() and suffix not in OTHERS | SIDECARS:
                    members.append(_member(shard, entry, number, gzipped=gzipped))
    except DAMAGE as error:
        message = f"{shard.uri} is damaged after {len(members)} members: {type(error).__name__}: {error}"
        damage = {"code": "shard_damaged", "message": message}
        members.append({"name": "", "size": 0, "piece": None, "offset": 0, "problem": damage})
    notes.warn_of_long_ones(shard.uri)
    members = _each_name_once(members)
    samples = Counter(sample_key(member["name"]) for member in members)
    for member in members:
        found = notes.of(member["name"], alone=samples[sample_key(member["name"])] == 1)
        yield {**member, "metadata": list(found.items()) or None}


def _member(shard: Source, entry: tarfile.TarInfo, number: int, *, gzipped: bool) -> dict[str, Any]:
    problem = None
    if entry.name.startswith("/") or ".." in PurePosixPath(entry.name).parts:
        problem = f"{shard.uri} holds a member whose name leads out of it: {entry.name!r}"
    elif not entry.isreg():
        problem = f"{shard.uri}#{entry.name} is a link or a device, which is never followed"
    elif entry.issparse():
        problem = f"{shard.uri}#{entry.name} is sparse, which is not read"
    return {
        "name": as_utf8(entry.name),
        "size": entry.size if entry.isreg() and not problem else 0,
        "piece": 0 if gzipped else None,
        "offset": number if gzipped else entry.offset_data,
        "problem": {"code": "source_refused", "message": as_utf8(problem)} if problem else None,
    }


def _each_name_once(members: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the members in their order, of those that bear one name the last, which is what tar would leave behind."""
    named: dict[str, dict[str, Any]] = {}
    for member in members:
        named.pop(member["name"], None)
        named[member["name"]] = member
    return list(named.values())


# Parquet


def _parquet_rows(shard: Source, options: Options, audio_column: str | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file; what is not audio and not nested becomes metadata, as text."""
    try:
        with open_shard(shard, options, HEADER_BUFFER) as file, pq.ParquetFile(file, pre_buffer=False) as opened:
            _refuse_doubled(opened.schema_arrow.names)
            name, path = audio_columns(opened.schema_arrow, audio_column)
            others = [field.name for field in opened.schema_arrow if field.name != name and _is_plain(field.type)]
            paths = [f"{name}.path"] if path != name and _has_path(opened.schema_arrow.field(name)) else []
            first = 0
            for group in range(opened.num_row_groups):
                held = opened.metadata.row_group(group)
                told = [other for other in others if _is_short(shard, held, group, other)]
                rows = opened.read_row_group(group, columns=[*told, *paths])
                size = uncompressed_bytes(held, path)
                yield from _listed_rows(rows, group, first, size, name if paths else None, told)
                first += held.num_rows
    except DAMAGE as error:
        if isinstance(error, ValueError) and not isinstance(error, pa.ArrowException):
            raise RecipeError(f"{shard.uri} cannot be a source: {error}") from None
        message = f"{shard.uri} cannot be read as Parquet: {type(error).__name__}: {error}"
        damage = {"code": "shard_damaged", "message": message}
        yield {"name": "", "size": 0, "piece": None, "offset": 0, "problem": damage}


def _listed_rows(
    rows: pa.Table, group: int, first: int, size: int, struct: str | None, others: list[str]
) -> Iterator[dict[str, Any]]:
    texts = [pc.cast(_plain(rows[name]), pa.string()).to_pylist() for name in others]
    names = pc.struct_field(rows[struct], "path").to_pylist() if struct else [None] * rows.num_rows
    for row in range(rows.num_rows):
        told = [(name, values[row]) for name, values in zip(others, texts, strict=True) if values[row] is not None]
        if names[row] and "path" not in others:
            told.append(("path", names[row]))
        yield {
            "name": str(first + row),
            "size": size // max(1, rows.num_rows),  # about: what it is, is known when it is read
            "piece": group,
            "offset": row,
            "metadata": told,
        }


def _refuse_doubled(names: list[str]) -> None:
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise ValueError(f"it has more than one column {doubled[0]}")


def _has_path(field: pa.Field) -> bool:
    return bool(field.type.get_field_index("path") >= 0)


def _is_short(shard: Source, group: pq.RowGroupMetaData, number: int, column: str) -> bool:
    """Whether a column of a row group is read: what is longer than sidecars may be could be more than memory."""
    size = uncompressed_bytes(group, column)
    if size <= max(COLUMN_BYTES, group.num_rows * SIDECAR_BYTES):
        return True
    logger.warning(
        "%s: column %s has %d bytes in the %d rows of row group %d, and becomes no metadata there; "
        "%d bytes a row are read",
        *(shard.uri, column, size, group.num_rows, number, SIDECAR_BYTES),
    )
    return False


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column's values without the dictionary that they are kept in."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_plain(kind: pa.DataType) -> bool:
    """Whether values of a type can be written as text: no bytes, nothing nested."""
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return not pa.types.is_nested(kind) and not binary
