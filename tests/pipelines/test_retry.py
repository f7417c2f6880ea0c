"""Retry plans what failed and nothing else: whole recordings, and single segments of a stage."""

from dataclasses import replace

from hand_made import CORPUS, RECIPE, STAGES, TOY, closing, decided, listing, planned, segment, whole, write_receipt
from test_publish import publish_here

from pipelines.plan import find_delta, write_plan
from pipelines.retry import find_failed
from pipelines.runs import find_runs, read_table
from pipelines.seal import seal
from pipelines.stages import Stage
from pipelines.store import Store
from schemas import wire
from schemas.records import Plan

SOURCE = listing(*(f"/audio/{n}.wav" for n in range(4)))
OTHER = Stage("embeddings", "toy", {}, None, "f-embeddings")


def failed(recording: str, code: str, *, transient: bool) -> dict:
    row = closing(recording, 0, "failed")
    row["closing"]["failure"].update(code=code, transient=transient)
    return row


def finished(store: Store, plan: Plan) -> None:
    verdict = decided(store, plan)
    seal(store, plan, verdict, publish_here(store, plan, verdict))


def first_night(store: Store) -> list[str]:
    """A run in which `a` is well, `b` and `c` failed as a whole, and `d` on its second segment."""
    plan, (a, b, c, d) = planned(store, 4)
    rows = [*whole(a, 1), failed(b, "fetch_failed", transient=True), failed(c, "decoder_crashed", transient=False)]
    write_receipt(store, plan, 1, [*rows, segment(d, 0), segment(d, 1, fails=True), closing(d, 2)])
    finished(store, plan)
    return [a, b, c, d]


def again(store: Store, *codes: str, source=SOURCE, stages=STAGES) -> list[tuple]:
    rows = find_failed(store, find_runs(store, CORPUS), source, stages, codes).recordings
    return [(row["recording_id"], row["stages"], row["only"]) for row in rows.to_pylist()]


def test_by_default_what_may_pass_is_tried_again_with_all_its_stages(store):
    _, b, _, _ = first_night(store)
    assert again(store) == [(b, ["segments/windows", TOY], None)]


def test_a_code_chooses_what_failed_with_it(store):
    _, b, c, d = first_night(store)
    assert again(store, "decoder_crashed") == [(c, ["segments/windows", TOY], None)]
    assert again(store, "model_failed") == [(d, [TOY], [f"{TOY}#1"])]
    assert [one[0] for one in again(store, "fetch_failed", "decoder_crashed", "model_failed")] == sorted([b, c, d])
    assert again(store, "empty") == []


def test_a_stage_the_recipe_has_gained_is_done_with_what_is_tried_again(store):
    _, b, _, _ = first_night(store)
    assert again(store, stages=[*STAGES, OTHER]) == [(b, ["segments/windows", TOY, OTHER.id], None)]


def test_what_the_source_no_longer_holds_at_that_version_is_not_planned(store):
    first_night(store)
    assert again(store, source=listing("/audio/0.wav", "/audio/1.wav#changed")) == []


def test_a_stage_whose_code_has_changed_is_left_to_any_run(store):
    *_, d = first_night(store)
    changed = [STAGES[0], Stage("tags", "toy", {}, None, "f-tags-2")]
    assert again(store, "model_failed", stages=changed) == []
    delta = find_delta(store, find_runs(store, CORPUS), CORPUS, SOURCE, changed)
    assert d in delta.recordings["recording_id"].to_pylist()


def test_what_was_put_right_is_not_tried_a_third_time_and_no_row_is_doubled(store):
    _, b, _, d = first_night(store)
    runs = find_runs(store, CORPUS)
    plan = write_plan(
        store, RECIPE, runs, find_failed(store, runs, SOURCE, STAGES, ["fetch_failed", "model_failed"]), STAGES
    )
    assert read_table(store, plan.recordings_file)["recording_id"].to_pylist() == sorted([b, d])
    alone = [segment(d, 0), segment(d, 1), closing(d, 2)]
    for row, stages in zip(alone, ([], [TOY], [TOY]), strict=True):  # as workers.ingest gives them out
        row["stages"] = stages
    alone[0][wire.rows_column(TOY)] = []  # the model saw only what needed it
    write_receipt(store, plan, 1, [*whole(b, 1), *alone])
    finished(store, plan)
    assert again(store, "fetch_failed", "model_failed") == []
    tags = [row["segment_id"] for path in store.list("data/tags") for row in read_table(store, path).to_pylist()]
    assert sorted(tags) == sorted(
        [f"{d}-00000", f"{d}-00001", f"{b}-00000", *(t for t in tags if t[:32] not in (b, d))]
    )


def test_an_ordinary_run_does_not_plan_what_failed(store):
    first_night(store)
    assert not find_delta(store, find_runs(store, CORPUS), CORPUS, SOURCE, STAGES).recordings.num_rows


def test_a_segment_whose_retry_failed_to_be_fetched_can_be_tried_again(store):
    _, _, _, d = first_night(store)
    runs = find_runs(store, CORPUS)
    plan = write_plan(
        store, RECIPE, runs, find_failed(store, runs, SOURCE, STAGES, ["model_failed"]), STAGES, retry=True
    )
    write_receipt(store, plan, 1, [failed(d, "fetch_failed", transient=True) | {"stages": [TOY]}])
    finished(store, plan)
    part = (d, [TOY], [f"{TOY}#1"])
    assert part in again(store)
    assert again(store, "model_failed") == [part]
    assert part in again(store, "fetch_failed", "model_failed")


def test_what_failed_under_another_way_of_cutting_is_left_to_the_next_run(store):
    first_night(store)
    recut = [replace(stage, fingerprint=f"{stage.fingerprint}-b") for stage in STAGES]
    assert again(store, "fetch_failed", "model_failed", stages=recut) == []
    assert len(find_delta(store, find_runs(store, CORPUS), CORPUS, SOURCE, recut).recordings) == 4
