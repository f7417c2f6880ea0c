"""Lineage: what a run reads and writes, as OpenLineage RunEvents (openlineage.io, version 2-0-2 of its schema).

A run is START when it is planned or resumed, then COMPLETE when it is sealed, or FAIL. Its id is a UUID made of the
lake and the run, so that all attempts and all drivers of a run are one run to the lineage server.
"""

import importlib.metadata
import os
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from pipelines import events
from pipelines.accounting import versions
from pipelines.events import Begun, Event
from pipelines.recipe import Recipe
from schemas import layout
from schemas.records import Plan, Seal
from schemas.tables import TABLES

SCHEMA: Final = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACETS: Final = "https://openlineage.io/spec/facets"
NAMESPACE: Final = "OPENLINEAGE_NAMESPACE"

_TYPES: Final = {events.RUN_SEALED: "COMPLETE", events.RUN_FAILED: "FAIL"}


class Lineage:
    """Hears the events of a command, and sends those that a lineage server wants."""

    def __init__(self, recipe: Recipe, send: Callable[[dict[str, Any]], None]) -> None:
        """Take the recipe, and what sends an event."""
        self._recipe, self._send = recipe, send
        self._plan: Plan | None = None

    def __call__(self, event: Event) -> None:
        """Send a RunEvent, if the event is one to a lineage server."""
        if isinstance(event.subject, Begun):
            self._plan = event.subject.plan
            self._send(run_event("START", self._recipe, self._plan, event))
        elif event.name in _TYPES and self._plan is not None:
            self._send(run_event(_TYPES[event.name], self._recipe, self._plan, event))


def run_event(kind: str, recipe: Recipe, plan: Plan, event: Event) -> dict[str, Any]:
    """Return a RunEvent of type `kind`, as JSON has it."""
    sealed = event.subject if isinstance(event.subject, Seal) else None
    return {
        "eventType": kind,
        "eventTime": event.time.isoformat(timespec="milliseconds"),
        "producer": _producer(),
        "schemaURL": SCHEMA,
        "run": {"runId": run_id(recipe, plan.run), "facets": _run_facets(plan, event)},
        "job": {
            "namespace": os.environ.get(NAMESPACE) or "default",
            "name": f"phonolake.{recipe.corpus}",
            "facets": {"jobType": _facet("2-0-4/JobType", "Job", processingType="BATCH", integration="PHONOLAKE")},
        },
        "inputs": [_input(recipe, plan)],
        "outputs": [_output(recipe, table, sealed) for table in TABLES if _is_written(table, plan)],
    }


def run_id(recipe: Recipe, run: str) -> str:
    """Return the id of a run: the same whoever carries it on."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{_uri(recipe.lake.uri)}/{layout.run_folder(recipe.corpus, run)}"))


def dataset(uri: str) -> dict[str, str]:
    """Return a place as OpenLineage names it: s3://bucket and key, or file and an absolute path."""
    parts = urlsplit(_uri(uri))
    if parts.scheme == "file":
        return {"namespace": "file", "name": parts.path.rstrip("/") or "/"}
    return {"namespace": f"{parts.scheme}://{parts.netloc}", "name": parts.path.strip("/") or "/"}


def _uri(uri: str) -> str:
    uri = uri.rstrip("/")
    return uri if "://" in uri else f"file://{os.path.abspath(uri)}"


def _is_written(table: str, plan: Plan) -> bool:
    """Whether a run may write a table; every run with segments also writes recordings, and any run failures."""
    tables = {stage.table for stage in plan.stages}
    return table in tables or table == "failures" or (table == "recordings" and "segments" in tables)


def _run_facets(plan: Plan, event: Event) -> dict[str, Any]:
    found = versions()
    facets = {
        "nominalTime": _facet("1-0-1/NominalTime", "Run", nominalStartTime=plan.planned_at),
        "processing_engine": _facet("1-1-1/ProcessingEngine", "Run", name="Ray", version=found["ray"]),
    }
    if event.name == events.RUN_FAILED:
        said = {"message": event.message or "", "programmingLanguage": "python"}
        facets["errorMessage"] = _facet("1-0-1/ErrorMessage", "Run", **said)
    return facets


def _input(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    statistics = {"fileCount": plan.recordings, "size": plan.size_bytes}
    return {
        **dataset(recipe.source.where),
        "facets": {},
        "inputFacets": {"inputStatistics": _facet("1-0-0/InputStatistics", "InputDataset", **statistics)},
    }


def _output(recipe: Recipe, table: str, sealed: Seal | None) -> dict[str, Any]:
    fields = [_field(field) for field in TABLES[table]]
    found = {
        **dataset(f"{_uri(recipe.lake.uri)}/{layout.DATA}/{table}"),
        "facets": {"schema": _facet("1-2-0/Schema", "Dataset", fields=fields)},
    }
    if sealed is not None:
        files = [file for file in sealed.files if file.table == table]
        statistics = {
            "rowCount": sum(file.rows for file in files),
            "size": sum(file.size_bytes for file in files),
            "fileCount": len(files),
        }
        outputs = {"outputStatistics": _facet("1-0-2/OutputStatistics", "OutputDataset", **statistics)}
        return {**found, "outputFacets": outputs}
    return found


def _field(field: Any) -> dict[str, str]:
    described: Mapping[bytes, bytes] = field.metadata or {}
    text = described.get(b"description", b"").decode()
    return {"name": field.name, "type": str(field.type), **({"description": text} if text else {})}


def _facet(kind: str, of: str, /, **content: Any) -> dict[str, Any]:
    """Return a facet; `kind` is version and name as its schema's address has them."""
    version, name = kind.split("/")
    schema = f"{FACETS}/{version}/{name}{of}Facet.json#/$defs/{name}{of}Facet"
    return {"_producer": _producer(), "_schemaURL": schema, **content}


def _producer() -> str:
    """Return the uri of what wrote an event."""
    try:
        return f"urn:phonolake:{importlib.metadata.version('phonolake')}"
    except importlib.metadata.PackageNotFoundError:
        return "urn:phonolake"
