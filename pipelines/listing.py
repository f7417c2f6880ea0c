"""What a listing says of each object or member: Arrow columns, so that a million of them are some 200 MB."""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import pyarrow as pa

from schemas.records import PLACE, PROBLEM

METADATA: Final = pa.map_(pa.string(), pa.string())

LISTING: Final = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("modified_ns", pa.int64()),
        pa.field("metadata", METADATA),
        pa.field("place", PLACE),
        pa.field("problem", PROBLEM),
    ]
)
BATCH_ROWS: Final = 10_000

Rows = Iterable[tuple[str, str | None, int, int | None]]  # uri, etag, size_bytes, modified_ns


def batches(rows: Rows) -> Iterator[pa.RecordBatch]:
    """Turn rows of objects into columns, a batch at a time."""
    iterator = iter(rows)
    while chunk := list(islice(iterator, BATCH_ROWS)):
        uris, etags, sizes, times = zip(*chunk, strict=True)
        yield listed(pa.array(uris, pa.string()), pa.array(etags, pa.string()), sizes, times)


def listed(
    uris: pa.Array,
    etags: pa.Array,
    sizes: Iterable[int] | pa.Array,
    times: Iterable[int | None] | pa.Array,
    metadata: pa.Array | None = None,
    problems: pa.Array | None = None,
) -> pa.RecordBatch:
    """Return columns of objects of their own as a batch of LISTING; `times` are nanoseconds."""
    count = len(uris)
    columns = [
        uris,
        etags,
        pa.array(sizes, pa.int64()),
        pa.array(times, pa.int64()),
        pa.nulls(count, METADATA) if metadata is None else metadata,
        pa.nulls(count, PLACE),
        pa.nulls(count, PROBLEM) if problems is None else problems,
    ]
    return pa.RecordBatch.from_arrays(columns, schema=LISTING)


def local_row(path: str) -> tuple[str, str | None, int, int | None]:
    """Return a file's uri, etag, size and time; a name that is no text fails as missing when it is read."""
    status = os.stat(path)
    return local_name(path), None, status.st_size, status.st_mtime_ns


def local_name(path: str) -> str:
    """Return a file's absolute name as a uri, with what is no text written out."""
    return os.path.abspath(path).encode(errors="backslashreplace").decode()
