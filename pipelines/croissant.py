"""The Croissant 1.1 description of a lake (JSON-LD): a FileSet and a RecordSet per table, fields from the schemas.

Paths are relative to the lake's root, where the file belongs. The specification is at
https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html; it wants a sha256 of single files only.
"""

import json
from typing import Any, Final

import pyarrow as pa

from pipelines.description import Description
from schemas import layout
from schemas.tables import TABLES, leading_key

NAME: Final = "croissant.json"
_TERMS: Final = (
    *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty"),
    *("fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5"),
    *("parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator"),
    *("source", "subField", "transform"),
)
CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _TERMS},
}
_TYPES: Final = {
    pa.string(): "sc:Text",
    pa.bool_(): "sc:Boolean",
    pa.int32(): "sc:Integer",
    pa.int64(): "sc:Integer",
    pa.float32(): "sc:Float",
    pa.float64(): "sc:Float",
    pa.timestamp("us", tz="UTC"): "sc:DateTime",
}


def croissant(lake: Description, url: str) -> str:
    """Return the description as JSON; `url` is where the lake can be had."""
    names = ", ".join(corpus.name for corpus in lake.corpora)
    content: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": names,
        "description": f"{lake.recordings:,} recordings, {lake.hours:,.2f} hours of audio, and what models made of it: "
        "tables that join by recording_id and segment_id.",
        "url": url,
        "version": f"{lake.runs}.0.0",
        "datePublished": lake.sealed_at[:10],
        "license": [share.name for share in lake.licences] or ["unknown"],
        "isLiveDataset": True,
        "distribution": [_files(table) for table in lake.rows],
        "recordSet": [_records(table) for table in lake.rows],
    }
    if lake.languages:
        content["inLanguage"] = [share.name for share in lake.languages]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _files(table: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{table}-files",
        "name": f"{table}-files",
        "description": f"The Parquet files of {table}.",
        "encodingFormat": "application/x-parquet",
        "includes": f"{layout.DATA}/{table}/**/*.parquet",
    }


def _records(table: str) -> dict[str, Any]:
    records: dict[str, Any] = {
        "@type": "cr:RecordSet",
        "@id": table,
        "name": table,
        "description": f"The rows of {table}.",
        "field": [_field(table, field) for field in TABLES[table]],
    }
    if names := _key(table):
        records["key"] = [{"@id": f"{table}/{name}"} for name in names]
    return records


def _key(table: str) -> list[str]:
    """Return the columns whose values no two rows share; none where there are no such."""
    if table == "failures":
        return []
    who = "segment_id" if "segment_id" in TABLES[table].names else "recording_id"
    lead = leading_key(table)
    return ["run_id", who, *([lead] if lead else []), *(["label"] if table == "tags" else [])]


def _field(table: str, field: pa.Field) -> dict[str, Any]:
    """Describe a column. Lists are arrays; a list of structs, and a map, are arrays with a sub-field per part."""
    one, kind = _named(f"{table}/{field.name}", field), field.type
    source = _source(table, field.name)
    if pa.types.is_map(kind):
        parts = [(_part(name, "A key of the map." if at == 0 else "Its value."), f"[{at}]") for at, name in _ENTRY]
        return {**one, "isArray": True, "arrayShape": "-1", "subField": _parts(one["@id"], parts, source)}
    if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
        parts = [(part, part.name) for part in kind.value_type]
        return {**one, "isArray": True, "arrayShape": "-1", "subField": _parts(one["@id"], parts, source)}
    if pa.types.is_list(kind):
        return {**one, "isArray": True, "arrayShape": "-1", "dataType": _TYPES[kind.value_type], "source": source}
    if pa.types.is_struct(kind):  # audio
        return {**one, "dataType": "sc:AudioObject", "source": {**source, "transform": {"jsonPath": "bytes"}}}
    return {**one, "dataType": _TYPES[kind], "source": source}


_ENTRY: Final = ((0, "key"), (1, "value"))


def _part(name: str, description: str) -> pa.Field:
    return pa.field(name, pa.string(), metadata={"description": description})


def _parts(parent: str, parts: list[tuple[pa.Field, str]], source: dict[str, Any]) -> list[dict[str, Any]]:
    """Return sub-fields of an array, each with the path to it in an element."""
    return [
        {
            **_named(f"{parent}/{part.name}", part),
            "dataType": _TYPES[part.type],
            "source": {**source, "transform": {"jsonPath": path}},
        }
        for part, path in parts
    ]


def _named(identity: str, field: pa.Field) -> dict[str, Any]:
    description = (field.metadata or {}).get(b"description", b"").decode()
    return {"@type": "cr:Field", "@id": identity, "name": identity, "description": description}


def _source(table: str, column: str) -> dict[str, Any]:
    return {"fileSet": {"@id": f"{table}-files"}, "extract": {"column": column}}
