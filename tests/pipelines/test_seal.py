"""The seal: what a run did, written once; then the staging folder goes."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from hand_made import CORPUS, RECIPE, STAGES, closing, listing, planned, segment, whole, write_receipt
from test_publish import decided, publish_here

from pipelines.ledger import load_ledger
from pipelines.plan import find_delta, write_plan
from pipelines.runs import Runs, find_runs, load_seal, read_table
from pipelines.seal import seal
from pipelines.stages import Stage
from pipelines.store import Store
from schemas import layout, records
from schemas.records import Plan, Seal


def carried_out(store: Store) -> tuple[Plan, list[str], Seal]:
    plan, (a, b, c) = planned(store, 3)
    for attempt in (1, 2):
        store.put(layout.attempt_file(CORPUS, plan.run, attempt), b"{}")
    write_receipt(store, plan, 1, [segment(a, 0), segment(a, 1), closing(a, 2, "ok", mark=2.5)])
    write_receipt(store, plan, 2, [segment(b, 0), closing(b, 1, "partial", mark=1.25), *whole(c, 0, "failed")])
    verdict = decided(store, plan)
    return plan, [a, b, c], seal(store, plan, verdict, publish_here(store, plan, verdict))


def test_a_seal_says_what_the_run_did(store):
    plan, _, sealed = carried_out(store)
    assert (sealed.corpus, sealed.run, sealed.planned_at) == (CORPUS, plan.run, plan.planned_at)
    assert (sealed.recordings, sealed.ok, sealed.partial, sealed.failed) == (3, 1, 1, 1)
    assert (sealed.attempts, sealed.audio_seconds) == (2, 3.75)
    assert sealed.stages == plan.stages
    assert sealed == load_seal(store, CORPUS, plan.run)


def test_a_seal_lists_every_published_file_and_no_other(store):
    _, _, sealed = carried_out(store)
    assert {file.path: file.size_bytes for file in sealed.files} == store.list(layout.DATA)
    rows = {file.table: file.rows for file in sealed.files}
    assert rows == {"recordings": 2, "segments": 3, "tags": 3, "failures": 1}


def test_the_ledger_has_a_row_a_recording_with_outcome_and_stages(store):
    plan, (a, b, c), sealed = carried_out(store)
    ledger = read_table(store, sealed.ledger_file)
    assert ledger.schema.equals(records.LEDGER)
    keys = [stage.key for stage in plan.stages]
    found = {row["recording_id"]: (row["outcome"], row["size_bytes"], row["stages"]) for row in ledger.to_pylist()}
    assert found == {a: ("ok", 10, keys), b: ("partial", 10, keys), c: ("failed", 10, keys)}
    assert ledger["recording_id"].to_pylist() == sorted([a, b, c])
    assert set(ledger["uri"].to_pylist()) == {"/audio/0.wav", "/audio/1.wav", "/audio/2.wav"}


def test_after_the_seal_staging_is_gone_and_the_run_is_closed(store):
    plan, _, _ = carried_out(store)
    assert not store.exists(layout.staging_folder(CORPUS, plan.run))
    runs = find_runs(store, CORPUS)
    assert (runs.names, runs.sealed, runs.open) == (["00001"], frozenset({"00001"}), None)


def test_the_staging_of_other_corpora_and_runs_stays(store):
    other = layout.fragment_file("other", "00001", 1, "tags", "x")
    later = layout.fragment_file(CORPUS, "00002", 1, "tags", "x")
    store.put(other, b"1")
    store.put(later, b"1")
    carried_out(store)
    assert set(store.list(layout.STAGING)) == {other, later}


def test_the_next_plan_subtracts_the_sealed_ledger(store):
    carried_out(store)
    runs = find_runs(store, CORPUS)
    now = listing("/audio/0.wav", "/audio/1.wav", "/audio/2.wav", "/audio/3.wav")
    assert find_delta(store, runs, CORPUS, now, STAGES).recordings["uri"].to_pylist() == ["/audio/3.wav"]


def test_a_run_of_a_new_stage_books_that_stage_alone(store):
    carried_out(store)
    runs = find_runs(store, CORPUS)
    stages = [*STAGES, Stage("spectrograms", "mfcc", {}, None, "f-mfcc")]
    delta = find_delta(store, runs, CORPUS, listing("/audio/0.wav", "/audio/1.wav", "/audio/2.wav"), stages)
    plan = write_plan(store, RECIPE, runs, delta, stages)
    for row in delta.recordings.to_pylist():
        write_receipt(store, plan, 1, whole(row["recording_id"], 1))
    verdict = decided(store, plan)
    sealed = seal(store, plan, verdict, publish_here(store, plan, verdict))
    assert (sealed.run, sealed.recordings) == ("00002", 2)
    ledger = load_ledger(store, find_runs(store, CORPUS)).to_pylist()
    assert {tuple(row["stages"]) for row in ledger if row["run"] == "00002"} == {("spectrograms/mfcc@f-mfcc",)}


def test_sealing_again_returns_the_seal_that_stands(store):
    plan, _, sealed = carried_out(store)
    verdict = records.read_verdict(store.read(layout.verdict_file(CORPUS, plan.run)))
    assert seal(store, plan, verdict, []) == sealed


def test_two_sealers_at_once_have_one_seal_and_neither_fails(tmp_path):
    for number in range(5):
        store = Store(str(tmp_path / str(number)))
        plan, ids = planned(store, 20)
        for one in ids:
            write_receipt(store, plan, 1, whole(one, 1))
        verdict = decided(store, plan)
        files = publish_here(store, plan, verdict)
        start = Barrier(2)

        def close(_: int, store=store, plan=plan, verdict=verdict, files=files, start=start) -> Seal:
            start.wait()
            return seal(store, plan, verdict, files)

        with ThreadPoolExecutor(2) as sealers:
            one, other = sealers.map(close, range(2))
        assert one == other
        assert store.list(layout.staging_folder(CORPUS, plan.run)) == {}


def test_without_sealed_runs_the_ledger_is_empty_with_its_columns(store):
    ledger = load_ledger(store, Runs(CORPUS, ["00001"], frozenset()))
    assert ledger.num_rows == 0
    assert ledger.schema.names == [*records.LEDGER.names, "run"]
