"""Manifests: CSV, JSON Lines or Parquet files that name recordings and say things about them."""

import gzip
import io
import posixpath
import zlib
from typing import Any, Final

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from pipelines.errors import RecipeError, StoreError
from workers.objects import Options, fsspec_options, local_path

ENTRIES: Final = pa.schema(
    [pa.field("uri", pa.string(), nullable=False), pa.field("metadata", pa.map_(pa.string(), pa.string()))]
)
NAME_COLUMNS: Final = ("uri", "path")
BATCH_ROWS: Final = 10_000


def read_manifest(manifest: str, options: Options) -> pa.Table:
    """Return a manifest's entries, schema ENTRIES; a uri that comes twice is taken the first time.

    The column `uri` or `path` names the recording, relative to the manifest's folder where it is relative; every
    other column becomes metadata, as text.

    Raises:
        RecipeError: the manifest is missing, of unknown kind, unreadable, or has neither column.
        StoreError: the store does not deliver it.
    """
    table = _parse(manifest, _content(manifest, options))
    name = next((column for column in NAME_COLUMNS if column in table.column_names), None)
    if name is None:
        raise RecipeError(f"{manifest} has neither a column uri nor path; it has {', '.join(table.column_names)}")
    if table.column_names.count(name) > 1:
        raise RecipeError(f"{manifest} has more than one column {name}")
    table = table.filter(pc.not_equal(table[name].cast(pa.string()), ""))  # null and empty name nothing
    entries = pa.Table.from_batches(
        [_entries(manifest, name, batch) for batch in table.to_batches(max_chunksize=BATCH_ROWS)], ENTRIES
    )
    return _first_of_each(entries)


def _entries(manifest: str, name: str, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch of the manifest as entries; Python objects live for a batch only."""
    table = pa.Table.from_batches([batch])
    uris = [_absolute(manifest, entry) for entry in table[name].cast(pa.string()).to_pylist()]
    metadata = _metadata(table.drop_columns([name]))
    return pa.RecordBatch.from_arrays([pa.array(uris, pa.string()), metadata], schema=ENTRIES)


def _content(manifest: str, options: Options) -> bytes:
    try:
        filesystem, path = fsspec.core.url_to_fs(manifest, **fsspec_options(manifest, options))
        return bytes(filesystem.cat_file(path))
    except FileNotFoundError:
        raise RecipeError(f"there is no manifest at {manifest}") from None
    except Exception as error:
        raise StoreError(f"{manifest} could not be read: {type(error).__name__}: {error}") from error


def _parse(manifest: str, content: bytes) -> pa.Table:
    kind = manifest.lower().removesuffix(".gz").rsplit(".", 1)[-1]
    try:
        content = gzip.decompress(content) if manifest.lower().endswith(".gz") else content
        if kind == "csv":
            return _parse_csv(content)
        if kind in ("jsonl", "ndjson", "json"):
            return _parse_json(content)
        if kind == "parquet":
            return pyarrow.parquet.read_table(io.BytesIO(content))
    except (pa.ArrowException, UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        raise RecipeError(f"{manifest} is not a readable {kind} file: {error}") from None
    raise RecipeError(f"{manifest} is no manifest: its name must end in .csv, .jsonl or .parquet")


def _parse_csv(content: bytes) -> pa.Table:
    """Read every column as text: an id such as 007 stays what it is."""
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    header = pyarrow.csv.open_csv(io.BytesIO(content), parse_options=parse).schema.names
    convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False)
    return pyarrow.csv.read_csv(io.BytesIO(content), parse_options=parse, convert_options=convert)


def _parse_json(content: bytes) -> pa.Table:
    """Read text that looks like a date as the text it is."""
    table = pyarrow.json.read_json(io.BytesIO(content))
    dates = pa.schema([(field.name, pa.string()) for field in table.schema if pa.types.is_timestamp(field.type)])
    if not dates.names:
        return table
    return pyarrow.json.read_json(io.BytesIO(content), parse_options=pyarrow.json.ParseOptions(explicit_schema=dates))


def _absolute(manifest: str, entry: str) -> str:
    if "://" in entry or entry.startswith("/"):
        return entry
    if local_path(manifest) is None:
        scheme, _, rest = manifest.partition("://")
        return f"{scheme}://{posixpath.normpath(posixpath.join(posixpath.dirname(rest), entry))}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(local_path(manifest) or ""), entry))


def _metadata(columns: pa.Table) -> pa.Array:
    """Return each row's columns as a map of text, without those that are null."""
    rows = [[(name, _text(value)) for name, value in row.items() if value is not None] for row in columns.to_pylist()]
    return pa.array(rows or [[]] * columns.num_rows, ENTRIES.field("metadata").type)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _first_of_each(entries: pa.Table) -> pa.Table:
    positions = pa.array(np.arange(entries.num_rows))
    first = entries.append_column("position", positions).group_by("uri").aggregate([("position", "min")])
    return entries.take(first["position_min"].combine_chunks().sort())
