"""Records: what is written as JSON comes back equal, and keys of later releases are passed over."""

import json
from dataclasses import FrozenInstanceError, asdict, fields
from typing import Any

import pytest

from schemas import records
from schemas.records import Attempt, FinalFile, Fragment, Plan, PublishedFile, Receipt, Seal, Source, StageRecord
from schemas.records import Verdict as VerdictRecord

STAGES = [
    StageRecord("segments/windows", "segments", "0123456789abcdef", None),
    StageRecord("transcripts/tiny", "transcripts", "fedcba9876543210", "c0ffee"),
]
PLAN = Plan(
    corpus="prompts",
    run="00001",
    planned_at="2024-05-01T23:59:59+00:00",
    recipe_fingerprint="0" * 16,
    recipe={"corpus": "prompts", "source": {"uri": "/höher/", "include": ["*.wav"]}},
    recordings_file="runs/prompts/00001/plan-1.parquet",
    recordings=3,
    size_bytes=30,
    unit_rows=[2, 1],
    unit_bytes=[20, 10],
    stages=STAGES,
    writer="me",
)
FRAGMENT = Fragment("segments", "staging/x.parquet", 4, 100, "ab", "0a", "ff")
RECEIPT = Receipt(2, [FRAGMENT, FRAGMENT])
SOURCE = Source("staging/x.parquet", 0, 100, "ab", 4)
FILE = FinalFile("segments", "data/segments/x.parquet", "0a", None, [SOURCE], True)
VERDICT = VerdictRecord("runs/x/verdict-1.parquet", ["staging/r.parquet"], [FILE], "me")
SEAL = Seal(
    corpus="prompts",
    run="00001",
    planned_at=PLAN.planned_at,
    sealed_at="2024-05-02T00:10:00+00:00",
    attempts=2,
    recordings=3,
    ok=1,
    partial=1,
    failed=1,
    audio_seconds=12.5,
    ledger_file="runs/prompts/00001/ledger.parquet",
    files=[PublishedFile("segments", "data/segments/x.parquet", 4, 100, "ab")],
    stages=STAGES,
    writer="me",
)
CASES = [
    pytest.param(PLAN, records.read_plan, id="plan"),
    pytest.param(RECEIPT, records.read_receipt, id="receipt"),
    pytest.param(VERDICT, records.read_verdict, id="verdict"),
    pytest.param(SEAL, records.read_seal, id="seal"),
]


def with_later_keys(content: Any) -> Any:
    """Add a key that no release knows yet to every object, but not inside the free-form recipe."""
    if isinstance(content, list):
        return [with_later_keys(one) for one in content]
    if isinstance(content, dict):
        kept = {name: value if name == "recipe" else with_later_keys(value) for name, value in content.items()}
        return {**kept, "of_a_later_release": {"deep": [1]}}
    return content


@pytest.mark.parametrize(("record", "read"), CASES)
def test_a_record_comes_back_equal(record, read):
    assert read(records.to_json(record)) == record


@pytest.mark.parametrize(("record", "read"), CASES)
def test_keys_of_later_releases_are_ignored(record, read):
    later = json.dumps(with_later_keys(json.loads(records.to_json(record)))).encode()
    assert later.count(b"of_a_later_release") > 1
    assert read(later) == record


@pytest.mark.parametrize(("record", "read"), CASES)
def test_a_missing_key_is_an_error_and_not_a_guess(record, read):
    content = json.loads(records.to_json(record))
    content.pop(next(iter(content)))
    with pytest.raises((TypeError, KeyError)):
        read(json.dumps(content).encode())


@pytest.mark.parametrize("record", [PLAN, RECEIPT, VERDICT, SEAL, Attempt(1, "2024-05-01T00:00:00+00:00", "me")])
def test_records_are_json_that_people_can_read_and_cannot_be_changed(record):
    assert json.loads(records.to_json(record)) == asdict(record)
    assert b"\n" in records.to_json(record)
    with pytest.raises(FrozenInstanceError):
        setattr(record, fields(record)[0].name, None)


def test_the_day_is_the_one_the_run_was_planned_on():
    assert PLAN.day == "2024-05-01"


def test_a_stage_is_booked_with_its_fingerprint():
    assert STAGES[1].key == "transcripts/tiny@fedcba9876543210"


def test_the_parquet_files_beside_the_records_keep_their_columns():
    assert records.PLAN.names == [
        "recording_id",
        "uri",
        "etag",
        "size_bytes",
        "modified_ns",
        "metadata",
        "stages",
        "only",
        "place",
        "problem",
    ]
    assert records.VERDICT.names == ["recording_id", "segment_index", "receipt", "outcome", "seconds"]
    assert records.LEDGER.names == ["recording_id", "uri", "size_bytes", "outcome", "stages"]
