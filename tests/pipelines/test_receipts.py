"""Receipts and who wins: per recording one attempt, per segment one receipt, success before failure."""

import pyarrow as pa
import pytest
from hand_made import (
    CORPUS,
    RECIPE,
    STAGES,
    Row,
    closing,
    listing,
    planned,
    segment,
    whole,
    wire_table,
    write_receipt,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import pipelines.scratch
from pipelines.attempt import survey
from pipelines.plan import find_delta, write_plan
from pipelines.receipts import Evidence, collect, covered
from pipelines.runs import Runs
from pipelines.sink import LakeSink
from pipelines.store import Store
from schemas import layout, records, wire

EVIDENCE = wire.RECEIPT.append(pa.field("receipt", pa.int32())).append(pa.field("attempt", pa.int32()))


def reference(rows: list[Row]) -> set[tuple]:
    """The winner rules, slowly: (recording, segment or None, receipt, outcome, seconds) of all that counts."""
    won = set()
    for recording in {row["recording_id"] for row in rows}:
        complete = []
        for attempt in {row["attempt"] for row in rows}:
            mine = [row for row in rows if (row["recording_id"], row["attempt"]) == (recording, attempt)]
            closings = [row for row in mine if row["segment_index"] is None]
            if closings:
                last = min(closings, key=lambda row: (row["outcome"] == "failed", row["receipt"]))
                held = {
                    index: min(row["receipt"] for row in mine if row["segment_index"] == index)
                    for index in {row["segment_index"] for row in mine} & set(range(last["n_segments"]))
                }
                if len(held) == last["n_segments"]:
                    complete.append((last["outcome"] == "failed", attempt, last, held))
        if complete:
            _, _, last, held = min(complete, key=lambda one: one[:2])
            won.add((recording, None, last["receipt"], last["outcome"], last["seconds"]))
            won |= {(recording, index, receipt, None, None) for index, receipt in held.items()}
    return won


def winners(rows: list[Row]) -> set[tuple]:
    evidence = Evidence([], [], pa.Table.from_pylist(rows, EVIDENCE))
    table = evidence.winners()
    assert table.schema == records.VERDICT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines.scratch, "SLICE_ROWS", max(2, len(rows) // 2))
        assert evidence.winners().equals(table)  # asked about in slices, nothing is cut apart
    found = [tuple(row.values()) for row in table.to_pylist()]
    assert len(found) == len(set(found))
    return set(found)


def proof(recording: str, index: int | None, receipt: int, attempt: int = 1, n=None, outcome=None) -> Row:
    seconds = None if outcome in (None, "failed") else 1.5
    return {
        "recording_id": recording,
        "segment_index": index,
        "n_segments": n,
        "outcome": outcome,
        "seconds": seconds,
        "receipt": receipt,
        "attempt": attempt,
    }


def closed(recording: str, receipt: int, n: int, outcome: str = "ok", attempt: int = 1) -> Row:
    return proof(recording, None, receipt, attempt, n, outcome)


def counted(rows: list[Row]) -> set[tuple]:
    """The winners without outcome and seconds, checked against the reference."""
    found = winners(rows)
    assert found == reference(rows)
    return {one[:3] for one in found}


def test_without_receipts_nobody_wins():
    assert counted([]) == set()


def test_a_recording_whose_segments_and_closing_row_are_there_is_complete():
    rows = [proof("a", 0, 0), proof("a", 1, 1), closed("a", 2, 2)]
    assert counted(rows) == {("a", 0, 0), ("a", 1, 1), ("a", None, 2)}


@pytest.mark.parametrize("missing", range(3))
def test_a_recording_that_lacks_a_segment_or_its_closing_row_is_not(missing):
    rows = [proof("a", 0, 0), proof("a", 1, 1), closed("a", 2, 2)]
    assert counted(rows[:missing] + rows[missing + 1 :]) == set()


def test_a_recording_without_segments_is_complete_with_its_closing_row():
    assert counted([closed("a", 0, 0)]) == {("a", None, 0)}


def test_two_attempts_that_each_cover_a_part_do_not_add_up():
    rows = [proof("a", 0, 0, attempt=1), proof("a", 1, 1, attempt=2), closed("a", 1, 2, attempt=2)]
    assert counted(rows) == set()


def test_the_first_complete_attempt_wins_and_an_incomplete_one_before_it_does_not_count():
    rows = [proof("a", 0, 0, 1), *(proof("a", index, 1, 2) for index in (0, 1)), closed("a", 1, 2, attempt=2)]
    rows += [*(proof("a", index, 2, 3) for index in (0, 1)), closed("a", 2, 2, attempt=3)]
    assert counted(rows) == {("a", 0, 1), ("a", 1, 1), ("a", None, 1)}


def test_recordings_may_win_with_different_attempts():
    rows = [closed("a", 0, 0, attempt=1), proof("b", 0, 0, 1), proof("b", 0, 1, 2), closed("b", 1, 1, attempt=2)]
    assert counted(rows) == {("a", None, 0), ("b", 0, 1), ("b", None, 1)}


def test_success_in_a_later_attempt_goes_before_failure_in_an_earlier_one():
    rows = [closed("a", 0, 0, "failed", 1), proof("a", 0, 1, 2), closed("a", 1, 1, "ok", 2)]
    assert counted(rows) == {("a", 0, 1), ("a", None, 1)}


def test_partial_counts_as_success():
    rows = [closed("a", 0, 0, "failed", 1), closed("a", 1, 0, "partial", 2), closed("a", 2, 0, "ok", 3)]
    assert counted(rows) == {("a", None, 1)}


def test_an_incomplete_success_does_not_displace_a_failure():
    rows = [closed("a", 0, 0, "failed", 1), proof("a", 0, 1, 2), closed("a", 1, 2, "ok", 2)]
    assert counted(rows) == {("a", None, 0)}


def test_a_failed_recordings_segments_are_dropped():
    rows = [proof("a", 0, 0), proof("a", 1, 0), closed("a", 0, 0, "failed")]
    assert counted(rows) == {("a", None, 0)}


def test_segments_beyond_the_last_do_not_count():
    assert counted([proof("a", 0, 0), proof("a", 1, 0), closed("a", 0, 1)]) == {("a", 0, 0), ("a", None, 0)}


def test_a_duplicate_receipt_of_a_retried_task_changes_nothing():
    once = [proof("a", 0, 0), closed("a", 0, 1), proof("b", 0, 0), closed("b", 0, 1)]
    twice = [*once, *({**row, "receipt": 1} for row in once)]
    assert counted(twice) == counted(once)


def test_of_two_receipts_of_a_segment_the_one_in_which_no_stage_failed_counts():
    rows = [{**proof("a", 0, 0), "failed_stages": 1}, {**proof("a", 0, 1), "failed_stages": 0}, closed("a", 0, 1)]
    assert {one[:3] for one in winners(rows)} == {("a", 0, 1), ("a", None, 0)}


def test_a_receipt_says_how_many_stages_failed_on_a_segment(tmp_path):
    store = Store(str(tmp_path))
    plan, ids = planned(store, 1)
    write_receipt(store, plan, 1, [segment(ids[0], 0, fails=True), segment(ids[0], 1), closing(ids[0], 2)])
    rows = collect(store, plan).rows.sort_by("segment_index").to_pylist()
    assert [row["failed_stages"] for row in rows] == [1, 0, 0]


def test_a_failure_that_may_pass_is_tried_again_by_the_next_command_and_a_lasting_one_is_not(tmp_path):
    store = Store(str(tmp_path))
    plan, ids = planned(store, 3)
    passing = closing(ids[0], 0, "failed")
    passing["closing"]["failure"] = {**passing["closing"]["failure"], "code": "fetch_failed", "transient": True}
    write_receipt(store, plan, 1, [passing, closing(ids[1], 0, "failed"), *whole(ids[2], 1)])
    assert survey(store, plan, try_again=False).missing == 0
    again = survey(store, plan, try_again=True)
    assert again.missing == 1
    assert 0 not in again.done[0]
    write_receipt(store, plan, 2, whole(ids[0], 1))
    mended = survey(store, plan, try_again=True)
    assert mended.missing == 0
    outcomes = {row["recording_id"]: row["outcome"] for row in mended.winners.to_pylist() if row["outcome"]}
    assert outcomes == {ids[0]: "ok", ids[1]: "failed", ids[2]: "ok"}


def test_a_block_whose_receipt_rows_were_torn_apart_is_refused(tmp_path):
    store = Store(str(tmp_path))
    plan, ids = planned(store, 1)
    sink = LakeSink(store, plan, 1)
    staged = sink.stage(wire_table(whole(ids[0], 2)))
    with pytest.raises(RuntimeError, match="different write tasks"):
        sink.write([staged.slice(1)], None)


@st.composite
def interleavings(draw) -> list[Row]:
    """Receipts of up to three attempts over up to three recordings: parts of them, doubled, torn and mixed."""
    rows = []
    for recording in "abc"[: draw(st.integers(1, 3))]:
        for attempt in range(1, draw(st.integers(0, 3)) + 1):
            outcome = draw(st.sampled_from(["ok", "partial", "failed"]))
            n_segments = draw(st.integers(0, 3))
            told = 0 if outcome == "failed" else n_segments
            for index in [*range(n_segments), None]:
                copies = draw(st.sampled_from([1, 1, 1, 1, 2, 0]))
                for receipt in draw(st.lists(st.integers(0, 5), min_size=copies, max_size=copies, unique=True)):
                    one = proof(recording, index, receipt * 3 + attempt, attempt)
                    rows.append(closed(recording, one["receipt"], told, outcome, attempt) if index is None else one)
    return draw(st.permutations(rows))


@settings(max_examples=60)
@given(interleavings())
def test_winners_of_any_interleaving_are_those_of_the_reference(rows):
    found = winners(rows)
    assert found == reference(rows)
    places = [one[:2] for one in found]
    assert len(places) == len(set(places))  # one receipt for each


PROOFS = st.builds(
    proof,
    st.sampled_from("ab"),
    st.integers(0, 2),
    st.integers(0, 4),
    st.integers(1, 2),
) | st.builds(
    closed,
    st.sampled_from("ab"),
    st.integers(0, 4),
    st.integers(0, 3),
    st.sampled_from(["ok", "partial"]),
    st.integers(1, 2),
)


@settings(max_examples=60)
@given(st.lists(PROOFS, max_size=20, unique_by=lambda row: (row["recording_id"], row["segment_index"], row["receipt"])))
def test_winners_of_receipts_that_contradict_each_other_are_those_of_the_reference(rows):
    assert winners(rows) == reference(rows)


def test_receipts_are_collected_from_all_attempts_with_what_they_cover(tmp_path):
    store = Store(str(tmp_path))
    plan, (a, b) = planned(store, 2)
    write_receipt(store, plan, 1, whole(a, 2))
    write_receipt(store, plan, 2, whole(b, 1), whole(a, 0, "failed"))
    evidence = collect(store, plan)
    assert evidence.paths == sorted(evidence.paths)
    assert [header.attempt for header in evidence.headers] == [1, 2]
    assert evidence.rows.schema == EVIDENCE
    assert sorted(evidence.rows["receipt"].to_pylist()) == [0, 0, 0, 1, 1, 1]
    tables = [sorted(fragment.table for fragment in header.fragments) for header in evidence.headers]
    assert tables == [["recordings", "segments", "tags"], ["failures", "recordings", "segments", "tags"]]
    fragments = [fragment for header in evidence.headers for fragment in header.fragments]
    assert {fragment.path: fragment.size_bytes for fragment in fragments}.items() <= store.list(layout.STAGING).items()
    assert {tuple(row.values())[:3] for row in evidence.winners().to_pylist()} == {
        (a, None, 0),
        (a, 0, 0),
        (a, 1, 0),
        (b, None, 1),
        (b, 0, 1),
    }


def test_fragments_without_a_receipt_prove_nothing(tmp_path):
    store = Store(str(tmp_path))
    plan, (a,) = planned(store, 1)
    LakeSink(store, plan, 1).stage(wire_table(whole(a, 2)))
    assert len(store.list(layout.staging_folder(CORPUS, plan.run))) == 3
    assert len(covered(collect(store, plan).winners())) == 0


def test_a_task_without_rows_writes_nothing(tmp_path):
    store = Store(str(tmp_path))
    plan, _ = planned(store, 1)
    sink = LakeSink(store, plan, 1)
    assert sink.write([sink.stage(wire_table([]))], None) == {}
    assert store.list(layout.STAGING) == {}


def test_receipts_of_other_runs_and_corpora_are_not_ours(tmp_path):
    store = Store(str(tmp_path))
    plan, (a,) = planned(store, 1)
    write_receipt(store, plan, 1, whole(a, 1))
    sealed = Runs(CORPUS, [plan.run], frozenset())
    other = write_plan(store, RECIPE, sealed, find_delta(store, sealed, CORPUS, listing("/b"), STAGES), STAGES)
    assert collect(store, other).paths == []


def test_a_survey_tells_which_rows_of_each_unit_are_done(tmp_path):
    store = Store(str(tmp_path))
    plan, ids = planned(store, 4)
    write_receipt(store, plan, 1, [*whole(ids[1], 2), *whole(ids[3], 0, "failed"), segment(ids[0], 0)])
    state = survey(store, plan, try_again=False)
    assert state.done == {0: frozenset({1, 3})}
    assert state.missing == 2
