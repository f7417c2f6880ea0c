"""The tables of a lake: what is promised to readers, and that it stays promised."""

from itertools import chain

import pyarrow as pa
import pytest

from schemas import tables, wire
from schemas.tables import KEYS, SORT_KEYS, TABLES

KEY_COLUMNS = {
    "recording_id": "string not null",
    "run_id": "string not null",
    "corpus_id": "string not null",
    "ingested_at": "timestamp[us, tz=UTC] not null",
}
SEGMENT_ID = {"segment_id": "string not null"}
MODEL = {"model": "string not null", "revision": "string not null"}
WORD = "struct<word: string, start: double, end: double, probability: float>"

RELEASED = {
    "recordings": {
        **KEY_COLUMNS,
        "uri": "string not null",
        "etag": "string",
        "size_bytes": "int64 not null",
        "container": "string",
        "codec": "string",
        "sample_rate": "int32",
        "channels": "int32",
        "declared_seconds": "double",
        "decoded_seconds": "double",
        "speech_seconds": "double",
        "content_sha256": "string",
        "status": "string not null",
        "decoder": "string",
        "metadata": "map<string, string>",
    },
    "segments": {
        **KEY_COLUMNS,
        **SEGMENT_ID,
        "segment_index": "int32 not null",
        "start_seconds": "double not null",
        "end_seconds": "double not null",
        "speech_ratio": "float",
    },
    "spectrograms": {
        **KEY_COLUMNS,
        **SEGMENT_ID,
        "kind": "string not null",
        "n_frames": "int32 not null",
        "n_bins": "int32 not null",
        "hop_seconds": "double not null",
        "values": "list<float> not null",
    },
    "embeddings": {
        **KEY_COLUMNS,
        **SEGMENT_ID,
        **MODEL,
        "layer": "string",
        "pooling": "string not null",
        "dim": "int32 not null",
        "vector": "list<float> not null",
    },
    "transcripts": {
        **KEY_COLUMNS,
        **SEGMENT_ID,
        **MODEL,
        "language": "string",
        "language_probability": "float",
        "text": "string not null",
        "words": f"list<{WORD}>",
        "avg_logprob": "float",
        "compression_ratio": "float",
        "no_speech_probability": "float",
        "temperature": "float",
        "flags": "list<string>",
    },
    "tags": {**KEY_COLUMNS, **SEGMENT_ID, **MODEL, "label": "string not null", "score": "float not null"},
    "clips": {
        **KEY_COLUMNS,
        **SEGMENT_ID,
        "format": "string not null",
        "sampling_rate": "int32 not null",
        "seconds": "double not null",
        "audio": "struct<bytes: binary, path: string>",
    },
    "failures": {
        **KEY_COLUMNS,
        "segment_id": "string",
        "uri": "string not null",
        "stage": "string not null",
        "code": "string not null",
        "message": "string not null",
        "transient": "bool not null",
        "attempts": "int32 not null",
    },
}
"""Schema version 1 as it was released. Never edit a line here; a new column goes to the test below it."""

PATH_KEYS = {"corpus", "dt"}
LEAVES = (
    pa.types.is_string,
    pa.types.is_binary,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
    pa.types.is_timestamp,
)


def spelled(kind: pa.DataType) -> str:
    """A type's name that does not depend on what Arrow calls list items."""
    if pa.types.is_map(kind):
        return f"map<{spelled(kind.key_type)}, {spelled(kind.item_type)}>"
    if pa.types.is_list(kind):
        return f"list<{spelled(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{field.name}: {spelled(field.type)}' for field in kind)}>"
    return str(kind)


def columns(schema: pa.Schema) -> dict[str, str]:
    return {field.name: spelled(field.type) + ("" if field.nullable else " not null") for field in schema}


def is_leaf(kind: pa.DataType) -> bool:
    return any(check(kind) for check in LEAVES)


def readers_take(kind: pa.DataType) -> bool:
    """Whether DuckDB, Spark, BigQuery and pandas read a column of this type without our code."""
    if pa.types.is_map(kind):
        return pa.types.is_string(kind.key_type) and is_leaf(kind.item_type)
    if pa.types.is_list(kind):
        items = kind.value_type
        return is_leaf(items) or (pa.types.is_struct(items) and all(is_leaf(field.type) for field in items))
    if pa.types.is_struct(kind):
        return all(is_leaf(field.type) for field in kind)
    return is_leaf(kind)


def every_field() -> list[tuple[str, pa.Field]]:
    inner = [("transcripts.words", field) for field in tables.WORD]
    inner += [("clips.audio", field) for field in tables.AUDIO]
    return list(chain(((table, field) for table, schema in TABLES.items() for field in schema), inner))


def test_the_lake_has_the_eight_tables_of_the_design():
    assert list(TABLES) == list(RELEASED)


@pytest.mark.parametrize("table", RELEASED)
def test_schema_version_1_keeps_every_released_column_name_type_and_order(table):
    assert tables.SCHEMA_VERSION == "1"
    found = list(columns(TABLES[table]).items())
    assert found[: len(RELEASED[table])] == list(RELEASED[table].items())


@pytest.mark.parametrize("table", RELEASED)
def test_columns_beyond_the_released_ones_are_nullable(table):
    assert all(field.nullable for field in list(TABLES[table])[len(RELEASED[table]) :])


@pytest.mark.parametrize(("table", "field"), every_field(), ids=lambda one: getattr(one, "name", one))
def test_every_field_says_what_it_holds(table, field):
    description = (field.metadata or {}).get(b"description", b"").decode()
    assert len(description) > 10, f"{table}.{field.name} has no description"
    assert description.endswith("."), f"{table}.{field.name}: {description}"


@pytest.mark.parametrize("table", TABLES)
def test_every_table_begins_with_the_keys_and_none_of_them_may_be_null(table):
    assert tuple(TABLES[table])[: len(KEYS)] == KEYS
    assert not any(field.nullable for field in KEYS)


@pytest.mark.parametrize("table", TABLES)
def test_sort_keys_are_columns_of_the_table_and_contain_the_recording(table):
    assert set(SORT_KEYS) == set(TABLES)
    assert set(SORT_KEYS[table]) <= set(TABLES[table].names)
    assert "recording_id" in SORT_KEYS[table]


@pytest.mark.parametrize("table", [table for table in TABLES if "model" in TABLES[table].names])
def test_tables_with_a_model_are_sorted_by_it_first_then_recording_then_segment(table):
    assert SORT_KEYS[table] == ("model", "recording_id", "segment_id")


@pytest.mark.parametrize("table", TABLES)
def test_nested_values_are_flat_lists_that_every_reader_takes(table):
    assert [field.name for field in TABLES[table] if not readers_take(field.type)] == []


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.float32())),
        pa.list_(pa.float32(), 8),
        pa.large_list(pa.float32()),
        pa.fixed_shape_tensor(pa.float32(), (2, 2)),
        pa.list_(pa.struct([("inner", pa.list_(pa.int32()))])),
        pa.struct([("inner", pa.list_(pa.int32()))]),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_the_check_on_nested_values_refuses_what_readers_cannot_take(kind):
    assert not readers_take(kind)


@pytest.mark.parametrize("table", TABLES)
def test_path_keys_are_not_repeated_inside_the_files(table):
    assert not PATH_KEYS & {name.lower() for name in TABLES[table].names}


@pytest.mark.parametrize("table", TABLES)
def test_column_names_differ_in_more_than_case(table):
    names = [name.lower() for name in TABLES[table].names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("table", TABLES)
def test_beyond_keys_and_the_keys_make_up_the_table(table):
    shared = {field.name for field in KEYS} | {"segment_id"}
    beyond = [field.name for field in tables.beyond_keys(table)]
    assert not shared & set(beyond)
    assert [name for name in TABLES[table].names if name not in shared] == beyond


@pytest.mark.parametrize("table", TABLES)
def test_the_wire_carries_a_tables_own_columns_as_nullable_structs(table):
    fields = list(wire.rows_type(table).value_type)
    assert [(field.name, field.type) for field in fields] == [
        (field.name, field.type) for field in tables.beyond_keys(table)
    ]
    assert all(field.nullable for field in fields)
