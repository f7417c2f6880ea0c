"""Retry plans what failed and nothing else: whole recordings, and single segments of a stage."""

import json
from dataclasses import replace

import pytest
from hand_made import CORPUS, RECIPE, STAGES, TOY, closing, decided, listing, planned, segment, whole, write_receipt
from test_publish import publish_here
from typer.testing import CliRunner

import pipelines.run
from pipelines.cli import app
from pipelines.errors import RecipeError
from pipelines.plan import find_delta, write_plan
from pipelines.retry import find_failed, standing_failures
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


def test_a_retry_that_finds_nothing_counts_what_fails_for_reasons_that_do_not_pass(store):
    first_night(store)
    standing = standing_failures(store, CORPUS)
    assert (standing.chosen, standing.recordings) == ({"fetch_failed": 1}, 1)
    said = standing.said(1, [])
    assert said.startswith("2 failed for reasons that do not pass (1 decoder_crashed, 1 model_failed)")
    assert "--code" in said


def test_a_retry_says_what_the_source_has_in_another_version_only_run_takes(store):
    first_night(store)
    standing = standing_failures(store, CORPUS, ["decoder_crashed"])
    assert standing.left(1) == 0
    assert standing.said(1, ["decoder_crashed"]) == ""
    planned = len(again(store, "decoder_crashed", source=listing("/audio/2.wav#allowed")))
    assert standing.left(planned) == 1
    said = standing.said(planned, ["decoder_crashed"])
    assert "1 recordings that failed (1 decoder_crashed) are not tried again" in said
    assert "phonolake run takes" in said


def test_a_retry_of_a_code_that_nothing_has_names_the_codes_that_stand(store):
    first_night(store)
    said = standing_failures(store, CORPUS, ["empty"]).said(0, ["empty"])
    assert "nothing stands as failed with empty" in said
    assert "3 stand with other codes (1 decoder_crashed, 1 fetch_failed, 1 model_failed)" in said


def test_the_command_says_it_in_text_and_as_json(tmp_path, monkeypatch):
    store = Store(str(tmp_path / "lake"))
    first_night(store)
    (tmp_path / "recipe.yaml").write_text(f"corpus: {CORPUS}\nsource: {{uri: audio/}}\nlake: {{uri: lake}}\n")
    monkeypatch.setattr(pipelines.run, "retry", lambda *_: None)
    done = CliRunner().invoke(app, ["retry", str(tmp_path / "recipe.yaml")])
    assert "nothing to try again; 1 recordings that failed (1 fetch_failed) are not tried again" in done.stdout
    assert "2 failed for reasons that do not pass" in done.stdout
    told = json.loads(CliRunner().invoke(app, ["retry", str(tmp_path / "recipe.yaml"), "--json"]).stdout)
    assert told["left_to_run"] == 1
    assert told["other_failures"] == {"decoder_crashed": 1, "model_failed": 1}


@pytest.mark.parametrize("command", ["retry", "failures"])
def test_a_code_that_is_none_is_refused_with_those_there_are(tmp_path, command):
    first_night(Store(str(tmp_path / "lake")))
    (tmp_path / "recipe.yaml").write_text(f"corpus: {CORPUS}\nsource: {{uri: audio/}}\nlake: {{uri: lake}}\n")
    where = {"retry": tmp_path / "recipe.yaml", "failures": tmp_path / "lake"}[command]
    done = CliRunner().invoke(app, [command, str(where), "--code", "emtpy"])
    assert isinstance(done.exception, RecipeError)
    assert "there is no failure code emtpy; there are decoder_crashed" in str(done.exception)
