"""Recordings that lie inside a shard: members of a tar, rows of a Parquet file. Read as streams, never extracted.

A .tar is read by range, neighbours with one request; a .tar.gz from its beginning; a Parquet file by row group. Every
request names the shard's planned version.
"""

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Any, BinaryIO, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from workers.objects import SPOOL_BYTES, Fetched, ObjectError, fetch, read_range, spooled
from workers.source import Source
from workers.stores import Options

STREAM_BUFFER: Final = 8 << 20  # bytes of a range request where a shard is read from end to end
ROWS_AT_ONCE: Final = 8  # of a Parquet file's audio in memory, at most
PIECE_BYTES: Final = 64 << 20  # of audio, uncompressed, that a row group may have whatever limits.max_bytes is
MOST_AT_ONCE: Final = 1 << 20  # bytes that a tar may be read in one go
COPY_BYTES: Final = 1 << 20
DAMAGE: Final = (
    *(tarfile.TarError, zlib.error, EOFError, pa.ArrowException, OSError),
    *(ValueError, OverflowError, RecursionError),
)
"""What reading a damaged shard raises."""


class ShardFile(io.RawIOBase):
    """An object as a seekable file that reads by range, always the planned version; ObjectError where that fails."""

    def __init__(self, shard: Source, options: Options) -> None:
        super().__init__()
        self._shard, self._options, self._position = shard, options, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte; nothing is asked of the store."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._shard.size_bytes}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with one request, as far as the object goes."""
        room = memoryview(buffer).cast("B")
        length = max(0, min(len(room), self._shard.size_bytes - self._position))
        if length:
            room[:length] = read_range(self._shard, self._position, length, self._options)
        self._position += length
        return length


def open_shard(shard: Source, options: Options, buffer_bytes: int) -> BinaryIO:
    """Open a shard for reading; `buffer_bytes` is what one request asks for at least."""
    return io.BufferedReader(ShardFile(shard, options), buffer_bytes)


class _CappedReader:
    """A file that refuses to be read in one go where a tar's header claims more than a sane one does."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Read at most MOST_AT_ONCE bytes; tarfile.ReadError where more are asked for."""
        if not 0 <= size <= MOST_AT_ONCE:
            raise tarfile.ReadError(f"a header claims {size} bytes for itself")
        return self._file.read(size)


@contextmanager
def open_tar(shard: Source, options: Options, buffer_bytes: int) -> Iterator[tarfile.TarFile]:
    """Open a tar, compressed or not, to read its members in order."""
    with open_shard(shard, options, buffer_bytes) as raw, ExitStack() as opened:
        file = opened.enter_context(gzip.GzipFile(fileobj=raw)) if is_gzipped(shard.uri) else raw
        capped = cast(IO[bytes], _CappedReader(cast(IO[bytes], file)))
        yield opened.enter_context(tarfile.open(fileobj=capped, mode="r:"))


def entries(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield a tar's entries up to its end marker.

    Raises:
        tarfile.ReadError: there is none, or something follows it: tarfile alone takes any rubbish for the end.
    """
    for entry in tar:
        if not 0 <= entry.size < 1 << 62 or tar.offset < entry.offset_data:
            raise tarfile.ReadError(f"a member of {entry.size} bytes, at byte {entry.offset}")
        yield entry
        tar.members = []  # type: ignore[attr-defined]  # it would keep a million of them
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        raise tarfile.ReadError(f"no end marker where one should be, at byte {tar.offset}")
    for rest in iter(partial(tar.fileobj.read, COPY_BYTES), b""):
        if any(rest):
            raise tarfile.ReadError(f"its end marker, at byte {tar.offset}, is not its end")


def shard_of(member: Source) -> Source:
    """Return the object that a member lies in."""
    assert member.place is not None
    return Source(member.place.shard, member.etag, member.place.shard_bytes, member.modified_ns)


def is_gzipped(shard: str) -> bool:
    """Whether a tar's name says that it is compressed, and so can only be read from its beginning."""
    return shard.lower().endswith((".tar.gz", ".tgz"))


def is_parquet(shard: str) -> bool:
    """Whether a shard's name says that it is Parquet."""
    return PurePosixPath(shard).suffix.lower() in (".parquet", ".pq")


def read_neighbours(members: Sequence[Source], options: Options) -> list[Fetched | ObjectError]:
    """Read members that lie close together in a .tar with one request, or each alone where that fails."""
    starts = [member.place.offset for member in members if member.place]
    length = starts[-1] + members[-1].size_bytes - starts[0]
    try:
        content = memoryview(read_range(members[0], starts[0], length, options))
    except ObjectError:
        return [_fetched_alone(member, options) for member in members]
    spans = ((start - starts[0], member.size_bytes) for start, member in zip(starts, members, strict=True))
    return [_in_memory(bytes(content[start : start + size])) for start, size in spans]


def _fetched_alone(member: Source, options: Options) -> Fetched | ObjectError:
    try:
        return fetch(member, options)
    except ObjectError as error:
        return error


def read_piece(
    members: Sequence[Source], options: Options, audio_column: str | None, max_bytes: int
) -> Iterator[Fetched | ObjectError]:
    """Yield members of one piece of a shard, in order, reading it once from its beginning.

    What follows damage comes as ObjectError `shard_damaged`; a member of more than `max_bytes` as `limit_bytes`.
    """
    shard, done = shard_of(members[0]), 0
    read = partial(_rows, column=audio_column) if is_parquet(shard.uri) else _gzipped_members
    try:
        for outcome in read(shard, members, options=options, max_bytes=max_bytes):
            yield outcome
            done += 1
    except ObjectError as error:
        failed = error
    except DAMAGE as error:
        failed = ObjectError("shard_damaged", f"{shard.uri} is damaged before this: {type(error).__name__}: {error}")
    else:
        failed = ObjectError("shard_damaged", f"{shard.uri} ends before this")
    for _ in members[done:]:
        yield failed


def _gzipped_members(
    shard: Source, members: Sequence[Source], options: Options, max_bytes: int
) -> Iterator[Fetched | ObjectError]:
    wanted = {member.place.offset: member for member in members if member.place}
    last = max(wanted)
    with open_tar(shard, options, STREAM_BUFFER) as tar:
        for number, entry in enumerate(entries(tar)):
            if (member := wanted.get(number)) is not None:
                content = tar.extractfile(entry)
                assert content is not None
                yield _taken(member, entry.size, content, max_bytes)
                if number == last:
                    return


def _taken(member: Source, size: int, content: Any, max_bytes: int) -> Fetched | ObjectError:
    if size > max_bytes:
        return too_big(member.uri, size, max_bytes)
    if size <= SPOOL_BYTES:
        return _in_memory(b"".join(iter(partial(content.read, COPY_BYTES), b"")))
    return spooled(member, lambda: iter(partial(content.read, COPY_BYTES), b""), again=False)


def _rows(
    shard: Source, members: Sequence[Source], options: Options, max_bytes: int, column: str | None
) -> Iterator[Fetched | ObjectError]:
    wanted = {member.place.offset: member for member in members if member.place}
    assert members[0].place is not None
    piece = members[0].place.piece or 0
    with open_shard(shard, options, STREAM_BUFFER) as file, pq.ParquetFile(file, pre_buffer=False) as opened:
        name, path = audio_columns(opened.schema_arrow, column)
        if piece >= opened.num_row_groups:
            raise pa.ArrowInvalid(f"{opened.num_row_groups} row groups, where there were more")
        group = opened.metadata.row_group(piece)
        held = uncompressed_bytes(group, path)
        if held > max(PIECE_BYTES, group.num_rows * max_bytes):
            yield from (_bomb(member, piece, group.num_rows, held, max_bytes) for member in members)
            return
        at_once = min(ROWS_AT_ONCE, max(1, PIECE_BYTES // max(1, held)))  # any row may hold nearly all of it
        row = 0
        for batch in opened.iter_batches(at_once, row_groups=[piece], columns=[path]):
            for value in batch[name]:
                if row in wanted:
                    yield _row(wanted[row], value, max_bytes)
                row += 1


def uncompressed_bytes(group: pq.RowGroupMetaData, path: str) -> int:
    """Return the bytes of a column of a row group before compression, as the footer says them; nothing is read."""
    columns = (group.column(number) for number in range(group.num_columns))
    return sum(int(column.total_uncompressed_size) for column in columns if column.path_in_schema == path)


def _bomb(member: Source, piece: int, rows: int, held: int, max_bytes: int) -> ObjectError:
    message = (
        f"{member.uri} lies in row group {piece}, whose {rows} rows hold {held} bytes of audio, {held // max(1, rows)} "
        f"each; limits.max_bytes allows {max_bytes}, so none of them is read; raise it, or write smaller row groups"
    )
    return ObjectError("limit_bytes", message)


def _row(member: Source, value: Any, max_bytes: int) -> Fetched | ObjectError:
    content = value["bytes"] if isinstance(value, pa.StructScalar) and value.is_valid else value
    content = content.value if isinstance(content, pa.DictionaryScalar) and content.is_valid else content
    if not content.is_valid:
        return ObjectError("empty", f"{member.uri} holds no bytes")
    buffer = content.as_buffer()
    return _in_memory(buffer.to_pybytes()) if buffer.size <= max_bytes else too_big(member.uri, buffer.size, max_bytes)


def audio_columns(schema: pa.Schema, named: str | None) -> tuple[str, str]:
    """Return the column that holds audio, and the path of its bytes: `audio.bytes` where it is a struct.

    Without `named` it is the only one that can be: a struct with a binary field `bytes` (as Hugging Face writes), or
    binary; where there is no such column, one of binary values of one length or in a dictionary. Raises ValueError
    where there is none or a choice.
    """
    paths = {field.name: path for field in schema if (path := _bytes_path(field, _is_binary))}
    if named is not None or not paths:  # a column of identifiers is no rival of one that any writer makes
        paths = {field.name: path for field in schema if (path := _bytes_path(field, _holds_binary))}
    if named is not None:
        if named not in paths:
            raise ValueError(f"its column {named} is no audio; binary are {', '.join(paths) or 'none'}")
        return named, paths[named]
    if len(paths) != 1:
        found = f"several columns that may be audio, {', '.join(paths)}" if paths else "no binary column"
        raise ValueError(f"it has {found}; name the right one in source.audio_column")
    return next(iter(paths.items()))


def _bytes_path(field: pa.Field, holds: Callable[[pa.DataType], bool]) -> str | None:
    if holds(field.type):
        return str(field.name)
    if pa.types.is_struct(field.type):
        index = field.type.get_field_index("bytes")
        if index >= 0 and holds(field.type.field(index).type):
            return f"{field.name}.bytes"
    return None


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _holds_binary(kind: pa.DataType) -> bool:
    """Whether values are bytes, also where they are all as long, or kept in a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return _is_binary(kind) or bool(pa.types.is_fixed_size_binary(kind))


def _in_memory(content: bytes) -> Fetched:
    return Fetched(content, None, len(content), hashlib.sha256(content).hexdigest())


def too_big(uri: str, size: int, max_bytes: int) -> ObjectError:
    """Return the error of an object that is larger than the recipe allows."""
    return ObjectError("limit_bytes", f"{uri} has {size} bytes; limits.max_bytes allows {max_bytes}")
