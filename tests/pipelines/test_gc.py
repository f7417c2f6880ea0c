"""Garbage collection takes staging of sealed runs and what died writers left, and nothing else."""

import os
import re
import time
from pathlib import Path

from hand_made import CORPUS, RECIPE, STAGES, decided, listing, planned, whole, write_receipt
from test_publish import publish_here

from pipelines.gc import TEMPORARY_SECONDS, collect_garbage
from pipelines.plan import find_delta, write_plan
from pipelines.runs import find_runs
from pipelines.seal import seal
from pipelines.store import Store
from schemas import layout


def sealed_and_open(store: Store) -> None:
    """A sealed run with a late writer's receipt in staging, and an open one with work in it."""
    plan, (a,) = planned(store, 1)
    write_receipt(store, plan, 1, whole(a, 1))
    verdict = decided(store, plan)
    seal(store, plan, verdict, publish_here(store, plan, verdict))
    write_receipt(store, plan, 1, whole(a, 1))
    runs = find_runs(store, CORPUS)
    later = write_plan(store, RECIPE, runs, find_delta(store, runs, CORPUS, listing("/audio/new.wav"), STAGES), STAGES)
    write_receipt(store, later, 1, whole("n" * 32, 1))


def test_only_staging_of_sealed_runs_goes(store):
    sealed_and_open(store)
    before = store.list("")
    late = store.list(layout.staging_folder(CORPUS, "00001"))
    assert late
    found = collect_garbage(store)
    assert (found.folders, found.objects, found.size_bytes) == (
        [layout.staging_folder(CORPUS, "00001")],
        len(late),
        sum(late.values()),
    )
    assert store.list("") == {path: size for path, size in before.items() if path not in late}
    assert collect_garbage(store).objects == 0


def test_temporary_files_go_when_no_writer_can_still_be_at_them(store):
    sealed_and_open(store)
    old = time.time() - TEMPORARY_SECONDS - 60
    folder = Path(store.full(layout.TEMPORARY))
    for name in ("old", "young"):
        (folder / f"phonolake-{name}").mkdir(parents=True)
        (folder / f"phonolake-{name}" / "merged.parquet").write_bytes(b"half")
        (folder / name).write_bytes(b"half")
    for name in ("phonolake-old", "old"):
        os.utime(folder / name, (old, old))
    assert collect_garbage(store).temporary == 2
    assert sorted(path.name for path in folder.iterdir()) == ["phonolake-young", "young"]


def test_plans_and_verdicts_that_were_not_the_first_go_with_a_sealed_run_and_stay_with_an_open_one(store):
    sealed_and_open(store)
    kept = {path for path in store.list(layout.RUNS) if path.endswith(".parquet")}
    sealed, opened = (layout.run_folder(CORPUS, run) for run in ("00001", "00002"))
    losers = {f"{folder}/{kind}-{'0' * 32}.parquet" for folder in (sealed, opened) for kind in ("plan", "verdict")}
    for path in losers:
        store.put(path, b"lost")
    assert collect_garbage(store).orphans == 2
    left = {path for path in store.list(layout.RUNS) if path.endswith(".parquet")}
    assert left == kept | {path for path in losers if path.startswith(opened)}


def test_temporary_files_lie_where_no_corpus_can_have_its_staging():
    assert not re.fullmatch(layout.CORPUS_PATTERN, layout.TEMPORARY.removeprefix(f"{layout.STAGING}/"))
