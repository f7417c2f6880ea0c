"""Lineage is what OpenLineage's own classes say an event is, and a server that is down costs a line."""

import json
import threading
import urllib.error
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import attr
import pytest
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    error_message_run,
    input_statistics_input_dataset,
    job_type_job,
    nominal_time_run,
    output_statistics_output_dataset,
    processing_engine_run,
    schema_dataset,
)
from openlineage.client.serde import Serde

from pipelines.errors import RecipeError
from pipelines.events import RUN_FAILED, RUN_PLANNED, RUN_RESUMED, RUN_SEALED, Begun, Event, listening, tell
from pipelines.lineage import Lineage, dataset, run_id
from pipelines.lineage_transport import FileTransport, HttpTransport, transport
from pipelines.recipe import Recipe, parse_recipe
from schemas.records import Plan, PublishedFile, Seal, StageRecord

FACETS = {
    "schema": schema_dataset.SchemaDatasetFacet,
    "inputStatistics": input_statistics_input_dataset.InputStatisticsInputDatasetFacet,
    "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
    "nominalTime": nominal_time_run.NominalTimeRunFacet,
    "processing_engine": processing_engine_run.ProcessingEngineRunFacet,
    "errorMessage": error_message_run.ErrorMessageRunFacet,
    "jobType": job_type_job.JobTypeJobFacet,
}
STAGES = [StageRecord("segments/speech", "segments", "f", None), StageRecord("tags/yamnet", "tags", "g", "r")]


def recipe(source: str = "s3://corpora/calls/", lake: str = "s3://lake/speech") -> Recipe:
    return parse_recipe({"corpus": "calls", "source": {"uri": source}, "lake": {"uri": lake}}, "recipe")


def plan() -> Plan:
    content = ("f", {}, "plan.parquet", 3, 900, [3], [900], STAGES, "w")
    return Plan("calls", "00007", "2026-11-24T01:00:00+00:00", *content)


def seal() -> Seal:
    files = [PublishedFile("tags", f"data/tags/{number}.parquet", 5, 100, "0") for number in range(2)]
    times = ("2026-11-24T01:00:00+00:00", "2026-11-24T02:00:00+00:00")
    return Seal("calls", "00007", *times, 1, 3, 2, 0, 1, 60.0, "ledger.parquet", files, STAGES, "w")


def sent(ends: Event, begins: str = RUN_PLANNED) -> list[dict[str, Any]]:
    """What a command sends that plans or resumes a run and ends with an event."""
    found: list[dict[str, Any]] = []
    with listening(Lineage(recipe(), found.append)):
        tell(Event(begins, "calls", "00007", subject=Begun(plan(), [])))
        tell(ends)
    return json.loads(json.dumps(found))


def facets_of(found: dict[str, Any]) -> dict[str, Any]:
    """Build OpenLineage's facets; a key that they have not, or lack, raises, as a wrong schema address does."""
    made = {}
    for name, content in found.items():
        kind = FACETS[name]
        values = {key: value for key, value in content.items() if not key.startswith("_")}
        if name == "schema":
            values["fields"] = [schema_dataset.SchemaDatasetFacetFields(**field) for field in values["fields"]]
        made[name] = kind(**values)
        assert content["_schemaURL"] == kind._get_schema()
    return made


def rebuilt(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event as OpenLineage's client would have written it, from the same values."""
    dataset_of = {"inputs": (InputDataset, "inputFacets"), "outputs": (OutputDataset, "outputFacets")}
    datasets = {
        side: [
            kind(one["namespace"], one["name"], **{own: facets_of(one.get(own, {}))}, facets=facets_of(one["facets"]))
            for one in event[side]
        ]
        for side, (kind, own) in dataset_of.items()
    }
    job = event["job"]
    made = RunEvent(
        eventTime=event["eventTime"],
        run=Run(event["run"]["runId"], facets_of(event["run"]["facets"])),
        job=Job(job["namespace"], job["name"], facets_of(job["facets"])),
        eventType=RunState[event["eventType"]],
        producer=event["producer"],
        **datasets,
    )
    return Serde.to_dict(attr.asdict(made))


def without_producers(value: Any) -> Any:
    """Drop who made a facet, and what is empty; OpenLineage's client writes itself there."""
    if isinstance(value, dict):
        found = {key: without_producers(one) for key, one in value.items() if key != "_producer"}
        return {key: one for key, one in found.items() if one not in ({}, [], None)}
    return [without_producers(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("ends", "kind"),
    [
        (Event(RUN_SEALED, "calls", "00007", subject=seal()), "COMPLETE"),
        (Event(RUN_FAILED, "calls", "00007", message="the store refused"), "FAIL"),
    ],
)
def test_events_are_those_of_the_standard(ends: Event, kind: str) -> None:
    events = sent(ends)
    assert [one["eventType"] for one in events] == ["START", kind]
    for event in events:
        assert without_producers(rebuilt(event)) == without_producers(event)


def test_a_run_is_one_run_whoever_carries_it_on() -> None:
    first = sent(Event(RUN_FAILED, "calls", "00007", message="killed"))
    second = sent(Event(RUN_SEALED, "calls", "00007", subject=seal()), RUN_RESUMED)
    assert len({one["run"]["runId"] for one in first + second}) == 1
    assert run_id(recipe(), "00007") != run_id(recipe(), "00008")
    assert run_id(recipe(), "00007") != run_id(recipe(lake="s3://other/speech"), "00007")


def test_what_is_read_and_written_is_named_as_the_standard_names_it() -> None:
    complete = sent(Event(RUN_SEALED, "calls", "00007", subject=seal()))[-1]
    [source] = complete["inputs"]
    assert (source["namespace"], source["name"]) == ("s3://corpora", "calls")
    written = {one["name"]: one for one in complete["outputs"]}
    tables = ("recordings", "segments", "tags", "failures")
    assert sorted(written) == sorted(f"speech/data/{table}" for table in tables)
    statistics = written["speech/data/tags"]["outputFacets"]["outputStatistics"]
    assert [statistics[name] for name in ("rowCount", "size", "fileCount")] == [10, 200, 2]
    names = [field["name"] for field in written["speech/data/tags"]["facets"]["schema"]["fields"]]
    assert {"recording_id", "label", "score"} <= set(names)
    assert dataset("/lakes/speech/") == {"namespace": "file", "name": "/lakes/speech"}


def test_nothing_is_sent_of_a_command_that_had_no_run() -> None:
    found: list[dict[str, Any]] = []
    with listening(Lineage(recipe(), found.append)):
        tell(Event(RUN_FAILED, "calls", message="no such bucket"))
    assert found == []


@pytest.fixture
def server() -> Iterator[tuple[str, list[Any]]]:
    """A lineage server: its address, and what it was sent as (path, authorization, event)."""
    taken: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append((self.path, self.headers["Authorization"], json.loads(body)))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=lambda: http.serve_forever(poll_interval=0.02))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", taken
        http.shutdown()
        thread.join()


def test_the_variables_of_openlineages_clients_say_where_events_go(server: tuple[str, list[Any]]) -> None:
    url, taken = server
    for environment in (
        {"OPENLINEAGE_URL": url, "OPENLINEAGE_API_KEY": "k"},
        {"OPENLINEAGE_URL": url, "OPENLINEAGE_ENDPOINT": "api/v2/events"},
        {"OPENLINEAGE__TRANSPORT__TYPE": "http", "OPENLINEAGE__TRANSPORT__URL": url + "/"}
        | {"OPENLINEAGE__TRANSPORT__AUTH": '{"type": "api_key", "apiKey": "j"}'},
    ):
        send = transport(environment)
        assert send is not None
        send({"eventType": "START"})
    event = {"eventType": "START"}
    assert taken == [
        ("/api/v1/lineage", "Bearer k", event),
        ("/api/v2/events", None, event),
        ("/api/v1/lineage", "Bearer j", event),
    ]


def test_a_server_that_sends_elsewhere_gets_no_key_taken_along(server: tuple[str, list[Any]]) -> None:
    url, taken = server

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(302)
            self.send_header("Location", url)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as http:
        thread = threading.Thread(target=http.handle_request)
        thread.start()
        send = transport({"OPENLINEAGE_URL": f"http://127.0.0.1:{http.server_port}", "OPENLINEAGE_API_KEY": "k"})
        assert send is not None
        with pytest.raises(urllib.error.HTTPError, match="302"):
            send({})
        thread.join()
    assert taken == []


def test_events_may_go_into_a_file_a_line_each_or_into_a_file_each(tmp_path: Path) -> None:
    settings = {"OPENLINEAGE__TRANSPORT__TYPE": "file", "OPENLINEAGE__TRANSPORT__LOG_FILE_PATH": str(tmp_path / "all")}
    for send in (transport(settings | {"OPENLINEAGE__TRANSPORT__APPEND": "true"}), transport(settings)):
        assert isinstance(send, FileTransport)
        send({"eventType": "START"})
        send({"eventType": "COMPLETE"})
    assert len((tmp_path / "all").read_text().splitlines()) == 2
    assert len(list(tmp_path.glob("all-*.json"))) == 2


def test_without_an_address_or_when_disabled_nothing_is_sent() -> None:
    assert transport({}) is None
    assert transport({"OPENLINEAGE_URL": "http://lineage", "OPENLINEAGE_DISABLED": "True"}) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"OPENLINEAGE__TRANSPORT__TYPE": "kafka"}, "known are file and http"),
        ({"OPENLINEAGE__TRANSPORT__TYPE": "file"}, "LOG_FILE_PATH"),
        ({"OPENLINEAGE_URL": "lineage:5000"}, "http"),
    ],
)
def test_a_way_that_is_not_known_is_refused_before_anything_begins(environment: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        transport(environment)


def test_a_server_that_is_down_costs_a_line_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as gone:
        url = f"http://127.0.0.1:{gone.server_port}"
    with listening(Lineage(recipe(), HttpTransport(url, None, 0.5))):
        tell(Event(RUN_PLANNED, "calls", "00007", subject=Begun(plan(), [])))
    assert len(caplog.messages) == 1
    assert "run_planned was not noted" in caplog.messages[0]


def test_a_server_that_takes_and_never_answers_costs_the_time_out(caplog: pytest.LogCaptureFixture) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as silent:  # it accepts, and nobody serves
        url = f"http://127.0.0.1:{silent.server_port}"
        with listening(Lineage(recipe(), HttpTransport(url, None, 0.3))):
            tell(Event(RUN_PLANNED, "calls", "00007", subject=Begun(plan(), [])))
    assert "timed out" in caplog.messages[0]
