"""Planning: the listing minus the ledger, cut into units, decided once."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_made import CORPUS, RECIPE, STAGES, listing
from hypothesis import given, settings
from hypothesis import strategies as st

import pipelines.plan
import pipelines.scratch
from pipelines.parquet import to_parquet
from pipelines.plan import Delta, find_delta, write_plan
from pipelines.runs import Runs, find_runs, load_plan
from pipelines.stages import Stage
from pipelines.store import Store
from schemas import layout, records
from schemas.ids import recording_id

NO_RUNS = Runs(CORPUS, [], frozenset())
KEYS = [stage.key for stage in STAGES]


def id_of(uri: str) -> str:
    name, _, etag = uri.partition("#")
    return recording_id(CORPUS, name, etag or None, 10, 1)


def sealed(store: Store, *runs: dict[str, tuple[str, list[str]]]) -> Runs:
    """Write a ledger for each run: uri -> (outcome, stage keys); return the runs."""
    names = [layout.run_name(number) for number, _ in enumerate(runs, start=1)]
    for name, entries in zip(names, runs, strict=True):
        rows = [
            {"recording_id": id_of(uri), "uri": uri.split("#")[0], "size_bytes": 10, "outcome": how, "stages": stages}
            for uri, (how, stages) in entries.items()
        ]
        store.put(layout.ledger_file(CORPUS, name), to_parquet(pa.Table.from_pylist(rows, records.LEDGER)))
    return Runs(CORPUS, names, frozenset(names))


def counts(delta: Delta) -> dict[str, int]:
    return {name: getattr(delta, name) for name in ("listed", "new", "changed", "stage_only", "gone")}


def needed(delta: Delta) -> dict[str, list[str]]:
    assert delta.recordings.schema == records.PLAN
    found = {row["recording_id"]: row["stages"] for row in delta.recordings.to_pylist()}
    assert len(found) == delta.recordings.num_rows
    return found


def test_an_empty_lake_needs_everything(store):
    delta = find_delta(store, NO_RUNS, CORPUS, listing("/a", "/b"), STAGES)
    assert counts(delta) == {"listed": 2, "new": 2, "changed": 0, "stage_only": 0, "gone": 0}
    assert needed(delta) == {id_of(uri): ["segments/windows", "tags/toy"] for uri in ("/a", "/b")}
    assert delta.size_bytes == 20


def test_new_changed_gone_and_stage_only_are_told_apart(store):
    runs = sealed(
        store,
        {
            "/same#1": ("ok", KEYS),
            "/changed#1": ("ok", KEYS),
            "/gone#1": ("ok", KEYS),
            "/old#1": ("partial", KEYS[:1]),
            "/other-settings#1": ("ok", [KEYS[0], "tags/toy@another"]),
        },
    )
    now = listing("/same#1", "/changed#2", "/old#1", "/other-settings#1", "/new#1")
    delta = find_delta(store, runs, CORPUS, now, STAGES)
    assert counts(delta) == {"listed": 5, "new": 1, "changed": 1, "stage_only": 2, "gone": 1}
    assert needed(delta) == {
        id_of("/new#1"): ["segments/windows", "tags/toy"],
        id_of("/changed#2"): ["segments/windows", "tags/toy"],
        id_of("/old#1"): ["tags/toy"],
        id_of("/other-settings#1"): ["tags/toy"],
    }


def test_a_plan_that_is_made_in_slices_is_the_same(store, monkeypatch):
    uris = [f"/{n % 7}/{n}" for n in range(40)]
    runs = sealed(
        store, {f"{uri}#{n % 3}": ("failed" if n % 5 == 0 else "ok", KEYS[: 1 + n % 2]) for n, uri in enumerate(uris)}
    )
    now = listing(*(f"{uri}#{n % 2}" for n, uri in enumerate([*uris[5:], "/new", "/a-new"])))
    whole = find_delta(store, runs, CORPUS, now, STAGES)
    monkeypatch.setattr(pipelines.scratch, "SLICE_ROWS", 9)
    assert len(pipelines.scratch.spans(now["uri"], 77)) == 9
    assert find_delta(store, runs, CORPUS, now, STAGES) == whole
    assert all(counts(whole).values())


def test_stages_of_several_runs_add_up(store):
    runs = sealed(store, {"/a#1": ("ok", KEYS[:1])}, {"/a#1": ("ok", KEYS[1:])})
    delta = find_delta(store, runs, CORPUS, listing("/a#1"), STAGES)
    assert counts(delta) == {"listed": 1, "new": 0, "changed": 0, "stage_only": 0, "gone": 0}
    assert needed(delta) == {}
    assert delta.size_bytes == 0


def test_an_object_that_changed_twice_is_changed_and_not_new(store):
    runs = sealed(store, {"/a#1": ("ok", KEYS)}, {"/a#2": ("ok", KEYS)})
    assert counts(find_delta(store, runs, CORPUS, listing("/a#3"), STAGES))["changed"] == 1


def test_an_object_that_is_back_at_an_earlier_version_is_changed_until_a_run_has_done_it_again(store):
    runs = sealed(store, {"/a#1": ("ok", KEYS)}, {"/a#2": ("ok", KEYS)})
    delta = find_delta(store, runs, CORPUS, listing("/a#1"), STAGES)
    assert needed(delta) == {id_of("/a#1"): [stage.id for stage in STAGES]}
    assert (counts(delta)["changed"], counts(delta)["stage_only"]) == (1, 0)
    runs = sealed(store, {"/a#1": ("ok", KEYS)}, {"/a#2": ("ok", KEYS)}, {"/a#1": ("ok", KEYS)})
    assert needed(find_delta(store, runs, CORPUS, listing("/a#1"), STAGES)) == {}


def recut(fingerprint):
    """The stages with the first, which cuts segments, at another fingerprint, and what stands on it too."""
    return [replace(stage, fingerprint=f"{stage.fingerprint}-{fingerprint}") for stage in STAGES]


def keys_of(stages):
    return [stage.key for stage in stages]


def test_a_recipe_that_goes_back_to_an_earlier_cut_is_computed_anew_and_not_mixed_with_the_later_one(store):
    other, more = recut("b"), [*STAGES, Stage("tags", "more", {}, None, "f-more")]
    runs = sealed(store, {"/a#1": ("ok", KEYS)}, {"/a#1": ("ok", keys_of(other))})
    assert needed(find_delta(store, runs, CORPUS, listing("/a#1"), other)) == {}
    found = needed(find_delta(store, runs, CORPUS, listing("/a#1"), more))
    assert found == {id_of("/a#1"): [stage.id for stage in more]}


def test_what_failed_to_be_cut_anew_gets_no_stage_on_segments_it_does_not_have(store):
    other = recut("b")
    more = [*other, Stage("tags", "more", {}, None, "f-more")]
    runs = sealed(store, {"/a#1": ("ok", KEYS)}, {"/a#1": ("failed", keys_of(other))})
    assert needed(find_delta(store, runs, CORPUS, listing("/a#1"), more)) == {}


@pytest.mark.parametrize("keys", [KEYS, KEYS[:1]])
def test_failed_recordings_are_not_planned_again(store, keys):
    runs = sealed(store, {"/bad#1": ("failed", keys)})
    delta = find_delta(store, runs, CORPUS, listing("/bad#1"), STAGES)
    assert needed(delta) == {}
    assert counts(delta)["stage_only"] == 0


def test_a_recording_that_decoded_once_gets_a_new_stage_though_another_stage_failed_on_it(store):
    base, other = KEYS[0], "tags/other@f-other"
    runs = sealed(store, {"/a#1": ("ok", [base])}, {"/a#1": ("failed", [other])})
    wanted = [*STAGES, Stage("tags", "other", {}, None, "f-other")]
    found = needed(find_delta(store, runs, CORPUS, listing("/a#1"), wanted))
    assert found == {id_of("/a#1"): [stage.id for stage in STAGES[1:]]}


def test_a_stage_that_failed_with_its_recording_is_planned_again_once_another_stage_succeeded_on_it(store):
    wanted = [*STAGES, *(Stage("tags", name, {}, None, f"f-{name}") for name in ("second", "third"))]
    second, third = ("tags/second@f-second"), ("tags/third@f-third")
    runs = sealed(store, {"/a#1": ("ok", KEYS)}, {"/a#1": ("failed", [second])}, {"/a#1": ("ok", [third])})
    assert needed(find_delta(store, runs, CORPUS, listing("/a#1"), wanted)) == {id_of("/a#1"): ["tags/second"]}


def test_a_failed_object_that_changed_is_planned_again(store):
    runs = sealed(store, {"/bad#1": ("failed", KEYS)})
    assert list(needed(find_delta(store, runs, CORPUS, listing("/bad#2"), STAGES))) == [id_of("/bad#2")]


def test_the_ledger_of_an_open_run_does_not_count(store):
    runs = replace(sealed(store, {"/a#1": ("ok", KEYS)}), sealed=frozenset())
    assert counts(find_delta(store, runs, CORPUS, listing("/a#1"), STAGES))["new"] == 1


def test_recordings_are_sorted_by_id_and_keep_what_was_listed(store):
    table = listing(*(f"/{number}#e" for number in range(200)))
    metadata = [[("n", str(number)), ("ä", "ö")] if number % 2 else None for number in range(200)]
    table = table.set_column(4, "metadata", pa.array(metadata, table.schema.field("metadata").type))
    rows = find_delta(store, NO_RUNS, CORPUS, table, STAGES).recordings.to_pylist()
    assert [row["recording_id"] for row in rows] == sorted(id_of(f"/{number}#e") for number in range(200))
    by_uri = {row["uri"]: row for row in rows}
    for listed in table.to_pylist():
        assert {name: by_uri[listed["uri"]][name] for name in listed} == listed


def test_the_plan_is_what_the_delta_says(store):
    delta = find_delta(store, NO_RUNS, CORPUS, listing("/a", "/b", "/c"), STAGES)
    plan = write_plan(store, RECIPE, NO_RUNS, delta, STAGES)
    assert plan == load_plan(store, CORPUS, "00001")
    assert (plan.run, plan.recordings, plan.size_bytes) == ("00001", 3, 30)
    assert plan.recipe_fingerprint == RECIPE.fingerprint()
    assert [(stage.id, stage.key) for stage in plan.stages] == [(stage.id, stage.key) for stage in STAGES]
    with pq.ParquetFile(store.full(plan.recordings_file)) as file:
        assert file.read().equals(delta.recordings)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(1, 50), st.integers(1, 7))
def test_units_respect_the_limits_and_are_consecutive_rows(tmp_path_factory, sizes, unit_bytes, unit_rows):
    store = Store(str(tmp_path_factory.mktemp("lake")))
    table = pa.concat_tables([listing(f"/{number}", size=size) for number, size in enumerate(sizes)])
    delta = find_delta(store, NO_RUNS, CORPUS, table, STAGES)
    with pytest.MonkeyPatch.context() as limits:
        limits.setattr(pipelines.plan, "UNIT_BYTES", unit_bytes)
        limits.setattr(pipelines.plan, "UNIT_ROWS", unit_rows)
        plan = write_plan(store, RECIPE, NO_RUNS, delta, STAGES)
    assert sum(plan.unit_rows) == plan.recordings == len(sizes)
    assert sum(plan.unit_bytes) == plan.size_bytes == sum(sizes)
    rows = pq.read_table(store.full(plan.recordings_file))
    assert rows.equals(delta.recordings)
    starts = itertools.accumulate(plan.unit_rows, initial=0)
    units = [rows["size_bytes"].slice(start, count) for start, count in zip(starts, plan.unit_rows, strict=False)]
    assert [sum(unit.to_pylist()) for unit in units] == plan.unit_bytes
    for rows, size in zip(plan.unit_rows, plan.unit_bytes, strict=True):
        assert rows <= unit_rows
        assert size <= unit_bytes or rows == 1


def test_two_planners_at_once_have_one_plan(store):
    for number in range(5):
        runs = find_runs(store, CORPUS)
        deltas = [find_delta(store, runs, CORPUS, listing(*uris), STAGES) for uris in (["/a"], ["/a", "/b"])]
        start = Barrier(2)

        def write(delta: Delta, runs: Runs = runs, start: Barrier = start) -> records.Plan:
            start.wait()
            return write_plan(store, RECIPE, runs, delta, STAGES)

        with ThreadPoolExecutor(2) as planners:
            one, other = planners.map(write, deltas)
        assert one == other
        assert one.run == layout.run_name(number + 1)
        assert pq.read_metadata(store.full(one.recordings_file)).num_rows == one.recordings


def test_run_numbers_are_dense_and_the_last_unsealed_run_is_open(store):
    delta = find_delta(store, NO_RUNS, CORPUS, listing("/a"), STAGES)
    assert find_runs(store, CORPUS).next == "00001"
    for number in range(1, 4):
        plan = write_plan(store, RECIPE, find_runs(store, CORPUS), delta, STAGES)
        assert plan.run == layout.run_name(number)
        runs = find_runs(store, CORPUS)
        assert (runs.open, runs.next) == (plan.run, layout.run_name(number + 1))
        store.put(layout.seal_file(CORPUS, plan.run), b"{}")
        assert find_runs(store, CORPUS).open is None


def test_a_plans_parquet_file_without_its_record_is_no_run(store):
    store.put(f"{layout.run_folder(CORPUS, '00001')}/plan-abc.parquet", b"x")
    assert find_runs(store, CORPUS).names == []


def test_corpora_number_their_runs_apart(store):
    write_plan(store, RECIPE, NO_RUNS, find_delta(store, NO_RUNS, CORPUS, listing("/a"), STAGES), STAGES)
    assert find_runs(store, "prompt").names == []
    assert find_runs(store, "other").next == "00001"
