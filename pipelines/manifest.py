"""Manifests: CSV, JSON Lines or Parquet files that name recordings and say things about them."""

import codecs
import gzip
import io
import json
import logging
import posixpath
import zlib
from collections.abc import Collection
from itertools import islice
from typing import Any, Final

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from pipelines.errors import RecipeError, StoreError
from schemas.records import PROBLEM
from workers.source import local_path
from workers.stores import Options, fsspec_options, is_s3

logger = logging.getLogger(__name__)

ENTRIES: Final = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("metadata", pa.map_(pa.string(), pa.string())),
        pa.field("problem", PROBLEM),
    ]
)
NAME_COLUMNS: Final = ("uri", "path", "audio_filepath")  # the last is NeMo's
LOCAL_SCHEMES: Final = frozenset({"file", "local"})
WEB_SCHEMES: Final = frozenset({"http", "https"})
STORE_SCHEMES: Final = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
"""Where a manifest's entries may lie beside its own scheme."""
LHOTSE_SOURCES: Final = "sources"  # lhotse's recordings: a list of {type, channels, source}
BATCH_ROWS: Final = 10_000
MOST_BRACKETS: Final = 1_000
"""In a line of JSON that Arrow is given: it goes down by recursion, and a line of nothing else ends the process."""


def read_manifest(manifest: str, options: Options, allow: Collection[str] = ()) -> pa.Table:
    """Return a manifest's entries, schema ENTRIES; a recording that comes twice is taken the first time.

    The column `uri` or `path` names the recording, relative to the manifest's folder where it is relative; every
    other column becomes metadata, as text. NeMo's `audio_filepath` and the first of lhotse's `sources` do too. What a
    manifest may not name (see recipe.SourceSection.allow) comes with a problem.

    Raises:
        RecipeError: the manifest is missing, of unknown kind, unreadable, or has neither column.
        StoreError: the store does not deliver it.
    """
    table = _parse(manifest, _content(manifest, options))
    if LHOTSE_SOURCES in table.column_names and not set(NAME_COLUMNS) & set(table.column_names):
        table = _from_lhotse(manifest, table)
    name = next((column for column in NAME_COLUMNS if column in table.column_names), None)
    if name is None:
        raise RecipeError(f"{manifest} has neither a column uri nor path; it has {', '.join(table.column_names)}")
    if table.column_names.count(name) > 1:
        raise RecipeError(f"{manifest} has more than one column {name}")
    try:
        names = table[name].cast(pa.string())
    except pa.ArrowException:
        raise RecipeError(f"{manifest}: its column {name} holds {table[name].type}, and no names") from None
    table = table.filter(pc.not_equal(names, ""))  # null and empty name nothing
    entries = pa.Table.from_batches(
        [_entries(manifest, name, batch, allow) for batch in table.to_batches(max_chunksize=BATCH_ROWS)], ENTRIES
    )
    return _first_of_each(manifest, entries)


def _entries(manifest: str, name: str, batch: pa.RecordBatch, allow: Collection[str]) -> pa.RecordBatch:
    """Return a batch of the manifest as entries; Python objects live for a batch only."""
    table = pa.Table.from_batches([batch])
    names = table[name].cast(pa.string()).to_pylist()
    uris = [_absolute(manifest, entry) for entry in names]
    refusals = [_refusal(manifest, entry, uri, allow) for entry, uri in zip(names, uris, strict=True)]
    problems = [{"code": "source_refused", "message": message} if message else None for message in refusals]
    metadata = _metadata(table.drop_columns([name]))
    return pa.RecordBatch.from_arrays(
        [pa.array(uris, pa.string()), metadata, pa.array(problems, PROBLEM)], schema=ENTRIES
    )


def _from_lhotse(manifest: str, table: pa.Table) -> pa.Table:
    """Return lhotse's recordings with the first source of each as `path`, and without what is nested."""
    try:
        paths = [sources[0]["source"] if sources else None for sources in table[LHOTSE_SOURCES].to_pylist()]
    except (KeyError, TypeError):
        raise RecipeError(f"{manifest} has a column sources that is not lhotse's: lists of type, source") from None
    plain = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    return table.select(plain).append_column("path", pa.array(paths, pa.string()))


def _refusal(manifest: str, entry: str, uri: str, allow: Collection[str]) -> str | None:
    """Say why an entry may not be read; None where it may."""
    scheme = uri.partition("://")[0] if "://" in uri else "file"
    if not is_s3(uri) and "::" in scheme + uri:
        return f"{uri}: {manifest} names a chain of file systems, which is never read"
    if scheme in LOCAL_SCHEMES:
        if local_path(manifest) is None and "file" not in allow:
            return f"{uri}: {manifest} names a local file; list `file` under source.allow to read it"
    elif scheme in WEB_SCHEMES:
        if "http" not in allow:
            return f"{uri}: {manifest} names a web address; list `http` under source.allow to read it"
    elif scheme not in STORE_SCHEMES | {manifest.partition("://")[0]}:
        return f"{uri}: {manifest} names something under {scheme}://, which is not read"
    if _climbs(manifest, entry, uri) and "outside" not in allow:
        return f"{uri}: {manifest} leads out of its own folder; list `outside` under source.allow to read it"
    return None


def _climbs(manifest: str, entry: str, uri: str) -> bool:
    """Whether a relative entry leads out of the manifest's folder, and does not come back."""
    relative = "://" not in entry and not entry.startswith("/")
    climbs = relative and posixpath.normpath(entry).split("/")[0] == ".."
    return climbs and not f"{uri}/".startswith(f"{_absolute(manifest, '.')}/")


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
    except (pa.ArrowException, ValueError, OSError, EOFError, zlib.error) as error:
        raise RecipeError(f"{manifest} is not a readable {kind} file: {error}") from None
    raise RecipeError(f"{manifest} is no manifest: its name must end in .csv, .jsonl or .parquet")


def _parse_csv(content: bytes) -> pa.Table:
    """Read every column as text: an id such as 007 stays what it is."""
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    header = pyarrow.csv.open_csv(io.BytesIO(content), parse_options=parse).schema.names
    convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False)
    return pyarrow.csv.read_csv(io.BytesIO(content), parse_options=parse, convert_options=convert)


def _parse_json(content: bytes) -> pa.Table:
    """Read text that looks like a date as the text it is; what Arrow has no columns for, line by line."""
    if any(_has_many_brackets(line) for line in io.BytesIO(content)):
        return _parse_json_by_line(content)
    try:
        return _parse_json_as_columns(content)
    except pa.ArrowException:  # a column of several types, a line longer than a block, or no JSON
        return _parse_json_by_line(content)


def _has_many_brackets(line: bytes) -> bool:
    return len(line) > MOST_BRACKETS and line.count(b"[") + line.count(b"{") > MOST_BRACKETS


def _parse_json_as_columns(content: bytes) -> pa.Table:
    table = pyarrow.json.read_json(io.BytesIO(content))
    dates = pa.schema([(field.name, pa.string()) for field in table.schema if pa.types.is_timestamp(field.type)])
    if not dates.names:
        return table
    return pyarrow.json.read_json(io.BytesIO(content), parse_options=pyarrow.json.ParseOptions(explicit_schema=dates))


def _parse_json_by_line(content: bytes) -> pa.Table:
    """Read values as text, but for lhotse's sources; a million lines take some 10 s more than by columns."""
    lines = enumerate(io.BytesIO(content.removeprefix(codecs.BOM_UTF8)), 1)
    tables = [pa.table({})]
    while batch := list(islice(lines, BATCH_ROWS)):
        rows = [_object(line, number) for number, line in batch if line.strip()]
        names = dict.fromkeys(name for row in rows for name in row)
        if LHOTSE_SOURCES in names and not names.keys() & set(NAME_COLUMNS):  # of lhotse's nothing nested is kept
            rows = [{name: row[name] for name in row if _is_kept_of_lhotse(name, row[name])} for row in rows]
        tables.append(pa.table({_utf8(name): _column(name, [row.get(name) for row in rows]) for name in names}))
    return pa.concat_tables(tables, promote_options="default")


def _object(line: bytes, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number} is no JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is no JSON object; each line is one, with a column's name for each value")
    return row


def _column(name: str, values: list[Any]) -> pa.Array:
    if name == LHOTSE_SOURCES:
        return pa.array([_lhotse_sources(value) for value in values], pa.list_(pa.struct([("source", pa.string())])))
    return pa.array([None if value is None else _utf8(_text(value)) for value in values], pa.string())


def _is_kept_of_lhotse(name: str, value: Any) -> bool:
    return name == LHOTSE_SOURCES or not isinstance(value, list | dict)


def _lhotse_sources(value: Any) -> list[dict[str, str]] | None:
    if value is None:
        return None
    if not isinstance(value, list) or any(not isinstance(one, dict) or "source" not in one for one in value):
        raise ValueError("it has a column sources that is not lhotse's: lists of type, source")
    return [{"source": _utf8(_text(one["source"]))} for one in value]


def _utf8(text: str) -> str:
    """Return text with what no UTF-8 can say, half a surrogate pair, written out."""
    return text.encode(errors="backslashreplace").decode()


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


def _first_of_each(manifest: str, entries: pa.Table) -> pa.Table:
    """Return the first row of each recording, under its plain name where the manifest has that too."""
    places = pa.chunked_array(
        [pa.array([_place(uri) for uri in chunk.to_pylist()], pa.string()) for chunk in entries["uri"].chunks],
        pa.string(),
    )
    positions = pa.array(np.arange(entries.num_rows))
    table = pa.table({"place": places, "position": positions})
    kept = table.group_by("place").aggregate([("position", "min")])["position_min"].combine_chunks().sort()
    first = entries.take(kept)
    if len(kept) < entries.num_rows:
        logger.warning(
            "%s: rows left out because a row before them names the same recording: %d, of %s for one. A recording is "
            "read whole and once; columns such as offset and duration choose no part of it",
            *(manifest, entries.num_rows - len(kept), _left_out(entries, kept)),
        )
        plain = entries["uri"].filter(pc.equal(entries["uri"], places))
        at = places.take(kept)
        uris = pc.if_else(pc.is_in(at, value_set=plain.combine_chunks()), at, first["uri"])
        first = first.set_column(0, ENTRIES.field("uri"), uris)
    return first


def _left_out(entries: pa.Table, kept: pa.Array) -> str:
    """Return a uri whose row is not kept."""
    wanted = np.setdiff1d(np.arange(entries.num_rows), kept.to_numpy(), assume_unique=True)
    return str(entries["uri"][int(wanted[0])].as_py())


def _place(uri: str) -> str:
    """Return what all spellings of a uri share: a plain path without // and /./, or one scheme of S3.

    Two dots stay: where a folder is a link, its parent is another.
    """
    if is_s3(uri):
        return f"s3://{uri.partition('://')[2]}"
    path = local_path(uri)
    if path is None or not path.startswith("/"):
        return uri
    if "//" not in path and "/." not in path:
        return path
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
