"""Runs made by hand, without Ray and without audio: what the tests of a run's steps build their lakes from."""

from typing import Any

import pyarrow as pa

from pipelines.plan import find_delta, write_plan
from pipelines.receipts import collect
from pipelines.recipe import parse_recipe
from pipelines.runs import Runs, read_table
from pipelines.sink import LakeSink
from pipelines.sources import LISTING
from pipelines.stages import Stage
from pipelines.store import Store
from pipelines.verdict import decide
from schemas import wire
from schemas.records import Plan, Verdict

CORPUS = "prompts"
STAGES = [Stage("segments", "windows", {}, None, "f-segments"), Stage("tags", "toy", {}, None, "f-tags")]
TOY = "tags/toy"
RECIPE = parse_recipe({"corpus": CORPUS, "source": {"uri": "/audio/"}, "lake": {"uri": "/lake"}}, "hand-made")

Row = dict[str, Any]


def listing(*uris: str, size: int = 10) -> pa.Table:
    """A source of these objects; what follows # in a name is its etag."""
    rows = [
        {"uri": uri.split("#")[0], "etag": uri.partition("#")[2] or None, "size_bytes": size, "modified_ns": 1}
        for uri in uris
    ]
    return pa.Table.from_pylist(rows, LISTING)


def planned(store: Store, recordings: int) -> tuple[Plan, list[str]]:
    """Plan run 00001 of so many recordings; return it and their ids."""
    none = Runs(CORPUS, [], frozenset())
    delta = find_delta(store, none, CORPUS, listing(*(f"/audio/{n}.wav" for n in range(recordings))), STAGES)
    plan = write_plan(store, RECIPE, none, delta, STAGES)
    return plan, read_table(store, plan.recordings_file)["recording_id"].to_pylist()


def segment(recording: str, index: int, mark: float = 0.0, *, fails: bool = False) -> Row:
    """A segment as a wire row; `mark` is carried to `speech_ratio` and the tag's score."""
    tag = {"model": "toy", "revision": "1", "label": "noise", "score": mark}
    failure = {"stage": TOY, "code": "model_failed", "message": "no", "transient": False, "attempts": 1}
    return {
        "recording_id": recording,
        "uri": f"/audio/{recording}",
        "stages": [stage.id for stage in STAGES],
        "segment_index": index,
        "start_seconds": float(index),
        "end_seconds": index + 1.0,
        "speech_ratio": mark,
        "pcm": b"\0\0",
        wire.rows_column(TOY): [] if fails else [tag],
        wire.error_column(TOY): failure if fails else None,
    }


def closing(recording: str, n_segments: int, outcome: str = "ok", mark: float = 0.0) -> Row:
    """A closing row; `mark` is carried to `decoded_seconds`."""
    failure = {"stage": "decode", "code": "unreadable", "message": "no", "transient": False, "attempts": 1}
    facts = {"uri": f"/audio/{recording}", "size_bytes": 10, "status": outcome, "n_segments": n_segments}
    failed = outcome == "failed"
    return {
        "recording_id": recording,
        "uri": f"/audio/{recording}",
        "stages": [stage.id for stage in STAGES],
        "closing": {**facts, "decoded_seconds": None if failed else mark, "failure": failure if failed else None},
    }


def whole(recording: str, n_segments: int, outcome: str = "ok", mark: float = 0.0) -> list[Row]:
    """All rows of a recording."""
    return [*(segment(recording, index, mark) for index in range(n_segments)), closing(recording, n_segments, outcome)]


def wire_table(rows: list[Row]) -> pa.Table:
    schema = wire.WIRE.append(pa.field(wire.rows_column(TOY), wire.rows_type("tags")))
    return pa.Table.from_pylist(rows, schema.append(pa.field(wire.error_column(TOY), wire.FAILURE)))


def write_receipt(store: Store, plan: Plan, attempt: int, *blocks: list[Row]) -> None:
    """Stage blocks of wire rows and write one receipt for them, as a task of this attempt does."""
    sink = LakeSink(store, plan, attempt)
    sink.write([sink.stage(wire_table(block)) for block in blocks], None)


def decided(store: Store, plan: Plan) -> Verdict:
    """The verdict on what was staged."""
    evidence = collect(store, plan)
    return decide(store, plan, evidence, evidence.winners())
