"""Publishing: from the verdict alone, every winning row once; by anyone, any number of times."""

import hashlib
import json
import os
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_made import closing, decided, planned, segment, whole, write_receipt
from hypothesis import given, settings
from hypothesis import strategies as st

import pipelines.merge
import pipelines.parquet
import pipelines.verdict
from pipelines.publish import copied, rewritten
from pipelines.receipts import collect
from pipelines.seal import seal
from pipelines.store import Store
from pipelines.verdict import decide
from schemas.records import Plan, PublishedFile, Verdict
from schemas.tables import SORT_KEYS, TABLES
from workers.tabulate import in_order


def publish_here(store: Store, plan: Plan, verdict: Verdict) -> list[PublishedFile]:
    """What pipelines.publish.publish does, without Ray."""
    return [
        copied(store, file) if file.whole else rewritten(store, plan, verdict.rows_file, file) for file in verdict.files
    ]


def published(store: Store, table: str) -> pa.Table:
    """All published rows of a table; every file is checked for columns and order on the way."""
    tables = [TABLES[table].empty_table()]
    for path in sorted(store.list(f"data/{table}")):
        rows = pq.read_table(store.full(path), partitioning=None).replace_schema_metadata(None)
        assert rows.schema == TABLES[table]
        assert rows.equals(in_order(table, rows)), f"{path} is not sorted by {SORT_KEYS[table]}"
        tables.append(rows)
    return pa.concat_tables(tables)


def state(store: Store) -> dict[str, tuple]:
    """Bytes, inode and time of every published file."""
    return {
        path: (store.read(path), os.stat(store.full(path)).st_ino, os.stat(store.full(path)).st_mtime_ns)
        for path in store.list("data")
    }


def mixed_run(store: Store) -> tuple[Plan, Verdict, list[str]]:
    """A run whose recordings file wins whole, while segments are gathered from two attempts."""
    plan, (a, b, c) = planned(store, 3)
    write_receipt(store, plan, 1, [*whole(a, 2, mark=1.0), segment(b, 0, 1.0)])
    write_receipt(store, plan, 2, [*whole(a, 2, mark=2.0), *whole(b, 2, mark=2.0)])
    write_receipt(store, plan, 2, [*whole(c, 0, "failed")])
    return plan, decided(store, plan), [a, b, c]


def test_every_winning_row_is_published_once_from_the_attempt_that_won(store):
    plan, verdict, (a, b, _) = mixed_run(store)
    publish_here(store, plan, verdict)
    rows = [
        (row["recording_id"], row["segment_index"], row["speech_ratio"])
        for row in published(store, "segments").to_pylist()
    ]
    assert sorted(rows) == sorted([(a, 0, 1.0), (a, 1, 1.0), (b, 0, 2.0), (b, 1, 2.0)])
    assert sorted(published(store, "recordings")["recording_id"].to_pylist()) == sorted([a, b])


def test_a_failed_recording_has_a_failure_and_nothing_else(store):
    plan, (a, b) = planned(store, 2)
    write_receipt(store, plan, 1, [segment(a, 0), segment(a, 1), closing(a, 0, "failed"), *whole(b, 1)])
    publish_here(store, plan, decided(store, plan))
    [failure] = published(store, "failures").to_pylist()
    assert (failure["recording_id"], failure["segment_id"], failure["code"]) == (a, None, "unreadable")
    for table in ("recordings", "segments", "tags"):
        assert set(published(store, table)["recording_id"].to_pylist()) == {b}


def test_a_segment_that_a_model_failed_on_is_a_segment_and_a_failure(store):
    plan, (a,) = planned(store, 1)
    write_receipt(store, plan, 1, [segment(a, 0), segment(a, 1, fails=True), closing(a, 2)])
    publish_here(store, plan, decided(store, plan))
    assert published(store, "segments").num_rows == 2
    assert published(store, "tags")["segment_id"].to_pylist() == [f"{a}-00000"]
    assert published(store, "failures")["segment_id"].to_pylist() == [f"{a}-00001"]


def test_the_failures_of_a_losing_attempt_are_not_published(store):
    plan, (a,) = planned(store, 1)
    write_receipt(store, plan, 1, whole(a, 0, "failed"))
    write_receipt(store, plan, 2, whole(a, 1))
    publish_here(store, plan, decided(store, plan))
    assert published(store, "failures").num_rows == 0
    assert published(store, "segments").num_rows == 1


def test_whole_fragments_are_linked_and_others_rewritten(store):
    plan, verdict, _ = mixed_run(store)
    publish_here(store, plan, verdict)
    assert {file.whole for file in verdict.files} == {True, False}
    for file in verdict.files:
        staged = [os.path.samefile(store.full(source.path), store.full(file.path)) for source in file.sources]
        assert any(staged) == file.whole


def test_what_is_told_of_a_file_is_what_lies_there(store):
    plan, verdict, _ = mixed_run(store)
    facts = publish_here(store, plan, verdict)
    assert [one.path for one in facts] == [file.path for file in verdict.files]
    for one in facts:
        data = store.read(one.path)
        assert (one.size_bytes, one.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert one.rows == pq.read_metadata(store.full(one.path)).num_rows


def test_publishing_twice_changes_nothing_and_tells_the_same(store):
    plan, verdict, _ = mixed_run(store)
    first, before = publish_here(store, plan, verdict), state(store)
    assert publish_here(store, plan, verdict) == first
    assert state(store) == before


def test_publishing_late_when_staging_is_gone_changes_nothing_and_tells_the_same(store):
    plan, verdict, _ = mixed_run(store)
    first, before = publish_here(store, plan, verdict), state(store)
    seal(store, plan, verdict, first)
    assert store.list("staging") == {}
    assert publish_here(store, plan, verdict) == first
    assert state(store) == before


@pytest.mark.parametrize("is_whole", [True, False])
def test_publishing_without_staging_and_without_the_file_is_an_error(store, is_whole):
    plan, verdict, _ = mixed_run(store)
    store.delete_folder("staging")
    file = next(file for file in verdict.files if file.whole == is_whole)
    with pytest.raises(FileNotFoundError):
        copied(store, file) if is_whole else rewritten(store, plan, verdict.rows_file, file)
    assert store.list("data") == {}


class Blind(Store):
    """A store on which a file appears right after a publisher has looked for it."""

    def exists(self, path: str) -> bool:
        return False if path.startswith("data/") else super().exists(path)


def test_a_publisher_who_is_second_tells_of_the_file_that_stands(store):
    plan, verdict, _ = mixed_run(store)
    file = next(file for file in verdict.files if not file.whole)
    other = pq.read_table(store.full(file.sources[0].path), partitioning=None).slice(0, 1)
    (folder := os.path.dirname(store.full(file.path))) and os.makedirs(folder)
    pq.write_table(other, store.full(file.path))  # as another version's writer would spell it
    real = Store.exists
    second = Blind(store.uri)
    calls = Counter()

    def exists(self: Store, path: str) -> bool:
        calls[path] += 1
        return calls[path] > 1 and real(self, path)

    with pytest.MonkeyPatch.context() as late:
        late.setattr(Blind, "exists", exists)
        told = rewritten(second, plan, verdict.rows_file, file)
    assert told.sha256 == hashlib.sha256(store.read(file.path)).hexdigest()
    assert told.rows == 1


def test_footers_carry_schema_version_run_and_stage_fingerprints(store):
    plan, verdict, _ = mixed_run(store)
    for one in publish_here(store, plan, verdict):
        footer = pq.read_metadata(store.full(one.path)).metadata
        assert footer[b"phonolake.schema_version"] == b"1"
        assert footer[b"phonolake.run_id"] == plan.run.encode()
        assert json.loads(footer[b"phonolake.stages"]) == {"segments/windows": "f-segments", "tags/toy": "f-tags"}


def test_files_hold_the_keys_and_not_the_path_keys(store):
    plan, verdict, _ = mixed_run(store)
    publish_here(store, plan, verdict)
    for table in ("recordings", "segments", "tags", "failures"):
        rows = published(store, table)
        assert rows.num_rows
        assert set(rows["run_id"].to_pylist()) == {plan.run}
        assert set(rows["corpus_id"].to_pylist()) == {plan.corpus}
        assert {time.isoformat() for time in rows["ingested_at"].to_pylist()} == {plan.planned_at}


@st.composite
def histories(draw) -> tuple[int, list[tuple[int, list[tuple]]]]:
    """How a run may have gone: (recordings, receipts); a receipt is (attempt, rows (recording, segment, n, outcome)).

    Attempts 1 and 2 lose and double parts at random; attempt 3 is complete, so that a verdict can be reached.
    """
    recordings = draw(st.integers(1, 4))
    receipts: list[tuple[int, list[tuple]]] = []
    for attempt in (1, 2, 3):
        rows = []
        for recording in range(recordings):
            outcome = draw(st.sampled_from(["ok", "ok", "partial", "failed"]))
            held = draw(st.integers(0, 3))
            told = 0 if outcome == "failed" else held
            rows += [(recording, index, None, None) for index in range(held)] + [(recording, None, told, outcome)]
        tasks = draw(st.integers(1, 3))
        homes = draw(st.lists(st.integers(0, tasks - 1), min_size=len(rows), max_size=len(rows)))
        for task in range(tasks):
            kept = [row for row, home in zip(rows, homes, strict=True) if home == task]
            copies = 1 if attempt == 3 else draw(st.sampled_from([0, 1, 1, 2]))
            receipts += [(attempt, kept)] * copies if kept else []
    return recordings, draw(st.permutations(receipts))


@settings(max_examples=12)
@given(histories(), st.sampled_from([1, 3_000, 1 << 28]), st.sampled_from([1, 1 << 28]), st.sampled_from([1, 1 << 28]))
def test_whatever_happened_files_are_disjoint_complete_and_sorted(tmp_path_factory, history, target, good, piece):
    recordings, receipts = history
    store = Store(str(tmp_path_factory.mktemp("lake")))
    plan, ids = planned(store, recordings)
    with pytest.MonkeyPatch.context() as sizes:
        sizes.setattr(pipelines.parquet, "ROW_GROUP_BYTES", piece)
        sizes.setattr(pipelines.merge, "SLICE_BYTES", piece)
        sizes.setattr(pipelines.verdict, "TARGET_BYTES", target)
        sizes.setattr(pipelines.verdict, "GOOD_BYTES", good)
        for attempt, rows in receipts:
            block = [
                closing(ids[one], n, outcome, attempt) if index is None else segment(ids[one], index, float(attempt))
                for one, index, n, outcome in rows
            ]
            write_receipt(store, plan, attempt, block)
        evidence = collect(store, plan)
        won = evidence.winners().to_pylist()
        verdict = decide(store, plan, evidence, evidence.winners())
        facts = publish_here(store, plan, verdict)

    attempts = [header.attempt for header in evidence.headers]
    segments = {
        (row["recording_id"], row["segment_index"], attempts[row["receipt"]]) for row in won if not row["outcome"]
    }
    good_ones = {(row["recording_id"], attempts[row["receipt"]]) for row in won if row["outcome"] in ("ok", "partial")}
    failed = {row["recording_id"] for row in won if row["outcome"] == "failed"}
    assert len(good_ones) + len(failed) == recordings

    def rows_of(table: str, *columns: str) -> list[tuple]:
        return sorted(tuple(row[name] for name in columns) for row in published(store, table).to_pylist())

    assert rows_of("segments", "recording_id", "segment_index", "speech_ratio") == sorted(segments)
    assert rows_of("tags", "segment_id", "score") == sorted((f"{r}-{i:05d}", mark) for r, i, mark in segments)
    assert rows_of("recordings", "recording_id", "decoded_seconds") == sorted(good_ones)
    assert [one for (one,) in rows_of("failures", "recording_id")] == sorted(failed)
    assert publish_here(store, plan, verdict) == facts
