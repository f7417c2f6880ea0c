"""The verdict: decided once, and its files divide the winning rows without gap or overlap."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier

import pytest
from hand_made import closing, decided, planned, segment, whole, write_receipt

import pipelines.verdict
from pipelines.receipts import collect
from pipelines.runs import read_table
from pipelines.store import Store
from pipelines.verdict import decide, load_verdict
from schemas import layout, records
from schemas.records import FinalFile, Verdict


def files_of(verdict: Verdict, table: str) -> list[FinalFile]:
    return [file for file in verdict.files if file.table == table]


def test_a_verdict_keeps_the_winners_and_the_receipts_they_name(store):
    plan, (a, b) = planned(store, 2)
    write_receipt(store, plan, 1, [*whole(a, 2), *whole(b, 0, "failed")])
    evidence = collect(store, plan)
    verdict = decide(store, plan, evidence, evidence.winners())
    assert verdict == load_verdict(store, plan)
    assert verdict.receipts == evidence.paths
    rows = read_table(store, verdict.rows_file)
    assert rows.replace_schema_metadata(None).equals(evidence.winners())
    assert [file.table for file in verdict.files] == ["recordings", "segments", "tags", "failures"]
    assert files_of(verdict, "tags")[0].path == layout.data_file("tags", plan.corpus, plan.day, plan.run, 0)


def test_before_a_verdict_there_is_none(store):
    plan, _ = planned(store, 1)
    with pytest.raises(FileNotFoundError):
        load_verdict(store, plan)


def test_two_deciders_at_once_have_one_verdict(store):
    plan, (a,) = planned(store, 1)
    write_receipt(store, plan, 1, whole(a, 2))
    early = collect(store, plan)
    write_receipt(store, plan, 2, whole(a, 2))
    for _ in range(5):
        start = Barrier(2)

        def write(evidence, start: Barrier = start) -> Verdict:
            start.wait()
            return decide(store, plan, evidence, evidence.winners())

        with ThreadPoolExecutor(2) as deciders:
            one, other = deciders.map(write, [early, collect(store, plan)])
        assert one == other == load_verdict(store, plan)
        assert len(read_table(store, one.rows_file)) == 3


def test_a_later_decider_adopts_the_verdict_that_stands(store):
    plan, (a,) = planned(store, 1)
    write_receipt(store, plan, 1, whole(a, 0, "failed"))
    first = decided(store, plan)
    write_receipt(store, plan, 2, whole(a, 2))
    assert decided(store, plan) == first


def test_a_fragment_that_wins_whole_and_alone_is_taken_as_it_is(store):
    plan, (a, b) = planned(store, 2)
    write_receipt(store, plan, 1, [*whole(a, 2), *whole(b, 1)])
    assert [file.whole for file in decided(store, plan).files] == [True, True, True]


def test_a_fragment_of_which_a_row_loses_is_not(store):
    plan, (a, b) = planned(store, 2)
    write_receipt(store, plan, 1, [*whole(a, 2), segment(b, 0)])
    write_receipt(store, plan, 2, whole(b, 0, "failed"))
    [file] = files_of(decided(store, plan), "segments")
    assert not file.whole


def test_receipts_that_won_nothing_are_no_source(store):
    plan, (a,) = planned(store, 1)
    write_receipt(store, plan, 1, whole(a, 2))
    write_receipt(store, plan, 2, whole(a, 2))
    verdict = decided(store, plan)
    assert {source.receipt for file in verdict.files for source in file.sources} == {0}


def test_small_fragments_are_gathered_and_good_ones_stay_alone(store, monkeypatch):
    plan, ids = planned(store, 6)
    for recording in ids[:3]:
        write_receipt(store, plan, 1, whole(recording, 1))
    assert len(files_of(decided(store, plan), "segments")) == 1
    (store_2 := Store(store.uri + "-2")).put("x", b"")
    plan, ids = planned(store_2, 6)
    for recording in ids:
        write_receipt(store_2, plan, 1, whole(recording, 1))
    monkeypatch.setattr(pipelines.verdict, "GOOD_BYTES", 1)
    files = files_of(decided(store_2, plan), "segments")
    assert [file.first for file in files] == ids
    assert all(file.whole for file in files)


def test_a_small_fragment_between_good_ones_is_gathered_with_other_small_ones(store, monkeypatch):
    plan, ids = planned(store, 9)
    for start in range(0, 9, 3):  # a task gives a block of its size, and a rest
        write_receipt(store, plan, 1, [row for one in ids[start : start + 2] for row in whole(one, 40)])
        write_receipt(store, plan, 1, whole(ids[start + 2], 1))
    fragments = [one for header in collect(store, plan).headers for one in header.fragments if one.table == "segments"]
    big, small = (extreme(one.size_bytes for one in fragments) for extreme in (max, min))
    monkeypatch.setattr(pipelines.verdict, "GOOD_BYTES", (big + small) // 2)
    files = files_of(decided(store, plan), "segments")
    assert sorted(len(file.sources) for file in files) == [1, 1, 1, 3]
    assert all(file.whole == (len(file.sources) == 1) for file in files)


@pytest.mark.parametrize("target", [1, 3_000, 10_000, 1 << 28])
@pytest.mark.parametrize("good", [1, 1 << 28])
def test_every_fragment_is_a_source_of_one_file_whatever_ids_it_spans(store, monkeypatch, target, good):
    plan, ids = planned(store, 12)
    for start in range(0, 12, 2):  # overlapping: 0-3, 2-5, ...; each recording's closing row in the later one
        block = [segment(one, 0) for one in ids[start + 2 : start + 4]] + [closing(one, 1) for one in ids[start:][:2]]
        write_receipt(store, plan, 1, block)
    write_receipt(store, plan, 1, [segment(one, 0) for one in ids[:2]])
    monkeypatch.setattr(pipelines.verdict, "TARGET_BYTES", target)
    monkeypatch.setattr(pipelines.verdict, "GOOD_BYTES", good)
    evidence = collect(store, plan)
    files = files_of(decided(store, plan), "segments")
    assert len({file.path for file in files}) == len(files)
    fragments = [one for header in evidence.headers for one in header.fragments if one.table == "segments"]
    sources = [source.path for file in files for source in file.sources]
    assert sorted(sources) == sorted(one.path for one in fragments)
    sizes = {one.path: one.size_bytes for one in fragments}
    for file in files:
        assert len(file.sources) == 1 or sum(sizes[source.path] for source in file.sources) <= target
        mine = [one for one in fragments if one.path in {source.path for source in file.sources}]
        assert file.first == min(one.first for one in mine)
        assert all(f"{one.last}-00000" < file.before for one in mine)
    assert all(file.first <= other.first for file, other in pairwise(files))


def test_a_verdict_is_plain_json(store):
    plan, (a,) = planned(store, 1)
    write_receipt(store, plan, 1, whole(a, 1))
    verdict = decided(store, plan)
    assert records.read_verdict(store.read(layout.verdict_file(plan.corpus, plan.run))) == verdict
