"""A run's record says what it took, as far as its drivers heard; nothing depends on it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipelines.accounting import attempt_record
from pipelines.events import (
    ATTEMPT_ENDED,
    FILES_PUBLISHED,
    RUN_PLANNED,
    RUN_SEALED,
    SOURCE_LISTED,
    Begun,
    Event,
    listening,
    tell,
)
from pipelines.meter import COUNTERS, Meter, key
from pipelines.nodes import Cluster, Node
from pipelines.recorder import Recorder
from pipelines.run_record import load_run_record
from pipelines.stages import Stage
from pipelines.store import Store
from schemas import layout
from schemas.records import Plan, PublishedFile, Seal, StageRecord
from schemas.run_record import AttemptRecord, read_run_record, to_json
from workers.weights import Checkpoint

CLUSTER = Cluster((Node(4.0, 1.0), Node(4.0, 1.0)))
MEASURES = {
    key("stage_seconds", stage="ingest"): 30.0,
    key("stage_seconds", stage="model/yamnet"): 90.0,
    key("pool_wait_seconds", model="yamnet"): 5.0,
    key("recordings", outcome="ok"): 7.0,
    key("recordings", outcome="failed"): 1.0,
    key("failures", stage="decode", code="empty"): 1.0,
    key("failures", stage="fetch", code="empty"): 2.0,
    key("batch_used_units", model="yamnet"): 60.0,
    key("batch_padded_units", model="yamnet"): 80.0,
    key("decoded_audio_seconds"): 7200.0,
    key("source_bytes"): 1000.0,
}
STAGES = [StageRecord("segments/speech", "segments", "f", None)]
MODEL = Checkpoint("yamnet", "yamnet", Path("/weights"), "r", "d")


def plan() -> Plan:
    content = ("f", {"corpus": "clips"}, "plan.parquet", 8, 1000, [8], [1000], STAGES, "w")
    return Plan("clips", "00001", "2026-11-24T01:00:00+00:00", *content)


def seal() -> Seal:
    files = [PublishedFile("tags", f"data/tags/{number}.parquet", 5, 100, "0") for number in range(2)]
    times = ("2026-11-24T01:00:00+00:00", "2026-11-24T02:00:00+00:00")
    return Seal("clips", "00001", *times, 2, 8, 7, 0, 1, 7200.0, "ledger.parquet", files, STAGES, "w")


def carry_out(store: Store, *, attempts: int = 2, killed: int = 0) -> None:
    """Tell a recorder of a run of so many attempts, of which the first `killed` are only known to have begun."""
    stages = [Stage(table, "yamnet", {}, MODEL, "f") for table in ("tags", "embeddings")]
    with listening(Recorder(lambda: store)):
        tell(Event(SOURCE_LISTED, "clips", seconds=3.0))
        tell(Event(RUN_PLANNED, "clips", "00001", seconds=2.0, subject=Begun(plan(), stages)))
        for number in range(1, attempts + 1):
            store.create(layout.attempt_file("clips", "00001", number), b"{}")
            if number > killed:
                took = attempt_record(number, "2026-11-24T01:00:00+00:00", "ended", 360.0, CLUSTER, MEASURES)
                tell(Event(ATTEMPT_ENDED, "clips", "00001", number, 360.0, subject=took))
        tell(Event(FILES_PUBLISHED, "clips", "00001", seconds=4.0))
        tell(Event(RUN_SEALED, "clips", "00001", seconds=1.0, subject=seal()))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def test_an_attempt_is_summed_up_by_stage_model_code_and_outcome() -> None:
    took = attempt_record(1, "t", "ended", 360.0, CLUSTER, MEASURES)
    assert took.stage_seconds == {"ingest": 30.0, "model/yamnet": 90.0}
    assert took.counts == {
        "audio_seconds": 7200.0,
        "failed": 1.0,
        "ok": 7.0,
        "recordings": 8.0,
        "source_bytes": 1000.0,
    }
    assert (took.failures, took.batch_fill) == ({"empty": 3.0}, {"yamnet": 0.75})
    assert (took.nodes, took.cpus, took.gpus) == (2, 8.0, 2.0)
    assert {"python", "ray", "torch"} <= took.versions.keys()


def test_a_record_says_what_a_run_took_and_what_a_core_hour_gave(store: Store) -> None:
    carry_out(store)
    record = load_run_record(store, "clips", "00001")
    assert record is not None
    assert record.step_seconds == {"list": 3.0, "plan": 2.0, "attempt": 720.0, "publish": 4.0, "seal": 1.0}
    assert record.stage_seconds == {"ingest": 60.0, "model/yamnet": 180.0}
    assert (record.core_hours, record.gpu_hours) == (pytest.approx(1.6), pytest.approx(0.4))
    assert record.audio_hours_per_core_hour == pytest.approx(2 / 1.6)
    assert record.audio_hours_per_gpu_hour == pytest.approx(2 / 0.4)
    assert record.audio_seconds_per_second == pytest.approx(10.0)
    assert (record.rows, record.published_bytes, record.published_files) == ({"tags": 10}, 200, 2)
    [model] = record.models
    assert (model.name, model.digest, model.stages) == ("yamnet", "d", ["tags/yamnet", "embeddings/yamnet"])


def test_an_attempt_whose_driver_was_killed_is_listed_without_what_it_took(store: Store) -> None:
    carry_out(store, attempts=2, killed=1)
    record = load_run_record(store, "clips", "00001")
    assert record is not None
    assert record.attempts[0] == AttemptRecord(1)
    assert record.attempts[1].seconds == record.attempt_seconds == 360.0


def test_where_no_attempt_is_known_no_speed_is_made_up(store: Store) -> None:
    carry_out(store, attempts=1, killed=1)
    record = load_run_record(store, "clips", "00001")
    assert record is not None
    assert record.audio_hours_per_core_hour is record.audio_seconds_per_second is None
    assert record.audio_hours_per_gpu_hour is None


def test_the_first_of_two_drivers_writes_the_record_and_the_other_leaves_it(store: Store) -> None:
    carry_out(store)
    first = store.read(layout.record_file("clips", "00001"))
    carry_out(store)
    assert store.read(layout.record_file("clips", "00001")) == first


def test_a_run_without_a_record_has_none(store: Store) -> None:
    assert load_run_record(store, "clips", "00001") is None


def test_keys_of_later_releases_are_passed_over(store: Store) -> None:
    carry_out(store)
    content = json.loads(store.read(layout.record_file("clips", "00001")))
    later = {**content, "carbon": 1, "attempts": [{**one, "watts": 2} for one in content["attempts"]]}
    record = read_run_record(json.dumps(later).encode())
    assert asdict(record) == content
    assert read_run_record(to_json(record)) == record


def test_a_store_that_refuses_the_record_does_not_fail_the_run(caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> Store:
        raise PermissionError("no right to write")

    with listening(Recorder(refuse)):
        tell(Event(RUN_PLANNED, "clips", "00001", subject=Begun(plan(), [])))
        tell(Event(RUN_SEALED, "clips", "00001", subject=seal()))
    assert caplog.messages == ["run_sealed was not noted: PermissionError: no right to write"]


def test_measures_without_ray_go_nowhere_and_do_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.meter.ray.is_initialized", lambda: False)  # another test may have left it running
    told: list[Any] = []
    Meter("clips", told).add(MEASURES)
    assert told == []


def test_no_label_tells_runs_or_objects_apart() -> None:
    labels = {label for _, names in COUNTERS.values() for label in names}
    assert labels == {"corpus", "table", "outcome", "stage", "code", "model", "step"}
