"""Stable identities: the same object at the same version always has the same id."""

import hashlib

import pyarrow as pa
import pyarrow.compute as pc

RECORDING_ID_HEX = 32
SEGMENT_INDEX_DIGITS = 5


def recording_id(corpus: str, uri: str, etag: str | None, size_bytes: int, modified_ns: int | None) -> str:
    """Return the id of an object at one version: 32 hex digits of sha256(corpus, uri, etag or size+mtime)."""
    version = etag if etag else f"{size_bytes}+{modified_ns}"
    return hashlib.sha256("\0".join((corpus, uri, version)).encode()).hexdigest()[:RECORDING_ID_HEX]


def segment_ids(recordings: pa.Array | pa.ChunkedArray, indices: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return `<recording_id>-<index:05d>` for each pair; null where the index is null."""
    padded = pc.utf8_lpad(pc.cast(indices, pa.string()), width=SEGMENT_INDEX_DIGITS, padding="0")
    return pc.binary_join_element_wise(recordings, padded, "-")
