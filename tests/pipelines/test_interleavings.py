"""Two writers through every create-once point, in every order of their store calls that makes a difference.

Where those are too many, writers change before the calls that matter only, and only so often before they must. After
every call the lake is looked at as test_protocol does.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from hand_made import CORPUS
from test_protocol import CHAOS, MEETING, URIS, Watch
from writers import Bench, World, Writer

from pipelines.attempt import _claim
from pipelines.gc import collect_garbage
from pipelines.plan import Delta, find_delta, write_plan
from pipelines.publish import copied, publish, rewritten
from pipelines.receipts import Evidence, collect
from pipelines.runs import find_runs, load_plan, load_seal, read_table
from pipelines.seal import seal
from pipelines.store import Store
from pipelines.verdict import decide, load_verdict
from schemas import layout
from schemas.records import Plan, PublishedFile, Seal, Verdict

DELETING = re.compile(r"local_copy |(create|copy|exists) data/|create .*/seal|delete ")
FEW = 2 if CHAOS else 1  # preemptions of whole drivers

Scene = Callable[[Bench], list[Writer]]


class Stage:
    """A lake that was prepared once, and on copies of which a scene is played in every order."""

    def __init__(self, *natures: str, seed: int = 1, **sizes: int) -> None:
        self.sizes = sizes
        self.bench = Bench(World(seed), **sizes)
        self.world, self.watch = self.bench.world, Watch(self.bench)
        for uri, nature in zip(URIS, natures, strict=False):
            self.world.put(uri, nature)

    @property
    def plan(self) -> Plan:
        """The first run's plan."""
        return plan_of(self.bench.store)

    @property
    def verdict(self) -> Verdict:
        """The first run's verdict."""
        return load_verdict(self.bench.store, self.plan)

    def go_to_the_end(self) -> None:
        """Let a driver carry out a run."""
        self._go_on(self.bench.driver("run"), "")
        assert self.watch.seals

    def go_up_to(self, call: str) -> None:
        """Let a driver go on until it stands before a call, and vanish there."""
        driver = self.bench.driver("run")
        self._go_on(driver, call)
        assert not driver.ended, f"it did not come to {call}"
        driver.vanish()

    def _go_on(self, driver: Writer, call: str) -> None:
        while not driver.ended and not (call and re.match(call, driver.before)):
            driver.go_on()
            self.watch.look()

    def orders(self, scene: Scene) -> Iterator[tuple[Bench, list[Writer]]]:
        """Play a scene in every order of its writers' calls that makes a difference; yield what each came to."""
        pending = [Beginning([], frozenset())]
        while pending:
            with self.played(scene) as (bench, watch, writers):
                branches, is_new = play(writers, watch, pending.pop())
                pending += branches
                if is_new:
                    watch.look_at_all()
                    yield bench, writers

    def orders_within(
        self, scene: Scene, calls: re.Pattern[str], preemptions: int
    ) -> Iterator[tuple[Bench, list[Writer]]]:
        """Play a scene in every order in which writers change before these calls only, and seldom before they must."""
        pending: list[list[int]] = [[]]
        while pending:
            with self.played(scene) as (bench, watch, writers):
                pending += play_within(writers, watch, pending.pop(), calls, preemptions)
                watch.look_at_all()
                yield bench, writers

    @contextmanager
    def played(self, scene: Scene) -> Iterator[tuple[Bench, Watch, list[Writer]]]:
        """A copy of this lake, a watch on it and the writers of a scene, before their first call."""
        bench = Bench(self.world.copy(), like=self.bench, **self.sizes)
        try:
            writers = scene(bench)
            for writer in writers:
                writer.go_on()
            yield bench, self.watch.on(bench), writers
        finally:
            bench.close()


@dataclass(frozen=True)
class Beginning:
    """How a play begins: whose turn it is, step by step; and who sleeps at its last step.

    To let a writer that sleeps go on there would repeat what was played already: its call was tried in this place, and
    bears on nothing that was called since (sleep sets; Godefroid, Partial-Order Methods, 1996, chapter 5).
    """

    order: list[int]
    asleep: frozenset[int]


def play(writers: list[Writer], watch: Watch, first: Beginning) -> tuple[list[Beginning], bool]:
    """Play one order to the end; return those that branch off from it, and whether it was new (or else left early)."""
    order: list[int] = []
    branches: list[Beginning] = []
    asleep: frozenset[int] = frozenset()
    while able := [number for number, writer in enumerate(writers) if not writer.ended]:
        if len(order) < len(first.order):
            choice = first.order[len(order)]
            asleep = first.asleep if len(order) == len(first.order) - 1 else frozenset()
        else:
            awake = [number for number in able if number not in asleep]
            if not awake:
                return branches, False
            choice = awake[0]
            for place, other in enumerate(awake[1:], start=1):
                branches.append(Beginning([*order, other], asleep | frozenset(awake[:place])))
        call = writers[choice].before
        asleep = frozenset(number for number in asleep if not bear_on_each_other(writers[number].before, call))
        order.append(choice)
        writers[choice].go_on()
        watch.look()
    return branches, True


def bear_on_each_other(one: str, other: str) -> bool:
    """Whether the order of two calls can make a difference: one writes what the other reads, writes, lists or deletes.

    >>> bear_on_each_other("list runs/a", "create runs/a/1"), bear_on_each_other("read runs/a", "read runs/a")
    (True, False)
    """
    (act, *paths), (other_act, *other_paths) = one.split(" "), other.split(" ")
    if {act, other_act} <= {"read", "open", "local_copy", "exists", "list"}:
        return False
    return any(f"{a}/".startswith(f"{b}/") or f"{b}/".startswith(f"{a}/") for a in paths for b in other_paths)


def play_within(
    writers: list[Writer], watch: Watch, first: list[int], calls: re.Pattern[str], preemptions: int
) -> list[list[int]]:
    """Play one order that begins with `first`, to the end; return the beginnings of those that branch off from it.

    A preemption is a change from a writer that could go on. As CHESS found, most races need one or two
    (Musuvathi and Qadeer, PLDI 2007).
    """
    order: list[int] = []
    branches: list[list[int]] = []
    used, last = 0, -1
    while able := [number for number, writer in enumerate(writers) if not writer.ended]:
        stays = last in able
        choice = last if stays else able[0]
        if len(order) < len(first):
            choice = first[len(order)]
        elif used + stays <= preemptions:
            branches += [[*order, other] for other in able if other != choice]
        used += stays and choice != last
        order.append(last := choice)
        go_on_to(calls, writers[choice], watch)
    return branches


def go_on_to(calls: re.Pattern[str], writer: Writer, watch: Watch) -> None:
    """Let a writer make the call that it stands before, and go on to the next of `calls`."""
    writer.go_on()
    watch.look()
    while not writer.ended and not calls.match(writer.before):
        writer.go_on()
        watch.look()


@pytest.fixture
def make_stage() -> Iterator[Callable[..., Stage]]:
    """Stage, closed at the end of the test."""
    made: list[Stage] = []

    def make(*natures: str, **more: int) -> Stage:
        made.append(Stage(*(natures or ("sound", "damaged", "hard")), **more))
        return made[-1]

    yield make
    for stage in reversed(made):  # each took the place of the one before
        stage.bench.close()


def same(writers: list[Writer]) -> Any:
    """What all writers returned, which is the same."""
    results = [writer.finish() for writer in writers]
    assert all(result == results[0] for result in results)
    assert results[0] is not None
    return results[0]


def plan_of(store: Store) -> Plan:
    return load_plan(store, CORPUS, "00001")


def lookers(bench: Bench) -> list[Writer]:
    """Two that look at three objects each."""

    def look(store: Store) -> None:
        for name in "xyz":
            store.exists(name)

    return [bench.writer("looker", look) for _ in range(2)]


def makers(bench: Bench) -> list[Writer]:
    """Two that write three objects each: the first is the same, the others are their own."""

    def make(number: int) -> Writer:
        def make_all(store: Store) -> None:
            for name in ("runs/same", f"runs/{number}-a", f"runs/{number}-b"):
                store.backend.write(name, b"", create=False)

        return bench.writer("maker", make_all)

    return [make(1), make(2)]


def test_orders_that_make_a_difference_are_played_and_no_others(make_stage):
    def count(scene: Scene) -> int:
        return sum(1 for _ in make_stage().orders(scene))

    assert count(lookers) == 1
    assert count(makers) == 2

    def makers_of_same(bench: Bench) -> list[Writer]:
        def make(store: Store) -> None:
            for _ in range(3):
                store.backend.write("runs/same", b"", create=False)

        return [bench.writer("maker", make) for _ in range(2)]

    assert count(makers_of_same) == 20  # 6 over 3


def test_orders_within_a_number_of_preemptions_are_all_played(make_stage):
    def count(preemptions: int) -> int:
        return sum(1 for _ in make_stage().orders_within(lookers, re.compile(""), preemptions))

    assert [count(preemptions) for preemptions in (0, 1, 2, 9)] == [2, 6, 14, 20]


def test_two_planners_of_one_run_have_one_plan(make_stage):
    stage = make_stage("sound", "damaged")
    runs, recipe, stages = find_runs(stage.bench.store, CORPUS), stage.world.recipe, stage.world.stages
    deltas = []
    for nature in ("sound", "damaged"):  # the source changes between their listings
        stage.world.put(URIS[0], nature)
        deltas.append(find_delta(stage.bench.store, runs, CORPUS, stage.world.listing(), stages))

    def planners(bench: Bench) -> list[Writer]:
        def planner(delta: Delta) -> Writer:
            return bench.writer("planner", lambda store: write_plan(store, recipe, runs, delta, stages))

        return [planner(delta) for delta in deltas]

    planned = set()
    for bench, writers in stage.orders(planners):
        plan = same(writers)
        assert plan == plan_of(bench.store)
        planned.add(read_table(bench.store, plan.recordings_file)["etag"].to_pylist()[0])
    assert len(planned) == 2  # either wins in some order


def test_two_attempts_have_two_numbers(make_stage):
    stage = make_stage()
    stage.go_up_to("create .*/attempts/0001")

    def claimers(bench: Bench) -> list[Writer]:
        return [bench.writer("claimer", lambda store: _claim(store, plan_of(store))) for _ in range(2)]

    for bench, writers in stage.orders(claimers):
        assert {writer.finish() for writer in writers} == {1, 2}
        assert len(bench.store.list(layout.run_folder(CORPUS, "00001"))) == 4  # plan.json, its recordings, two attempts


def evidence_of(stage: Stage, until: int) -> tuple[Evidence, pa.Table]:
    """What is known when so many attempts are done, and which of it wins."""
    evidence = collect(stage.bench.store, plan_of(stage.bench.store))
    attempts = [header.attempt for header in evidence.headers]
    assert max(attempts) == until
    return evidence, evidence.winners()


def test_two_deciders_with_different_evidence_have_one_verdict(make_stage):
    stage = make_stage("flaky", "sound", "flaky", "hard", seed=2)
    stage.go_up_to("create .*/verdict")  # a driver that vanishes here; something failed that may pass
    early = evidence_of(stage, until=1)
    stage.world.healed = True
    stage.go_up_to("create .*/verdict")
    late = evidence_of(stage, until=2)
    assert early[1] != late[1]

    def deciders(bench: Bench) -> list[Writer]:
        def decider(evidence: Evidence, winners: pa.Table) -> Writer:
            return bench.writer("decider", lambda store: decide(store, plan_of(store), evidence, winners))

        return [decider(*early), decider(*late)]

    receipts = set()
    for bench, writers in stage.orders(deciders):
        verdict = same(writers)
        assert verdict == load_verdict(bench.store, plan_of(bench.store))
        receipts.add(len(verdict.receipts))
    assert len(receipts) == 2


@pytest.mark.parametrize("is_whole", [True, False])
def test_two_publishers_of_one_file_tell_the_same_of_it(make_stage, is_whole):
    stage = make_stage(*["sound"] * 4, TARGET_BYTES=1 << 28, GOOD_BYTES=1 if is_whole else 1 << 28)
    stage.go_up_to("(exists|copy) data/")
    file = next(file for file in stage.verdict.files if file.whole == is_whole and file.table != "recordings")

    def publishers(bench: Bench) -> list[Writer]:
        def put(store: Store) -> PublishedFile:
            return copied(store, file) if is_whole else rewritten(store, stage.plan, stage.verdict.rows_file, file)

        return [bench.writer("publisher", put) for _ in range(2)]

    for bench, writers in stage.orders(publishers):
        told = same(writers)
        assert told.sha256 == hashlib.sha256(bench.store.read(file.path)).hexdigest()


def closers(bench: Bench) -> list[Writer]:
    """Two that publish a verdict and seal."""

    def close(store: Store) -> Seal:
        plan = plan_of(store)
        verdict = load_verdict(store, plan)
        return seal(store, plan, verdict, publish(store, plan, verdict))

    return [bench.writer("closer", close) for _ in range(2)]


def test_two_that_publish_and_seal_have_one_seal(make_stage):
    stage = make_stage("sound", "broken", TARGET_BYTES=1 << 28, GOOD_BYTES=1 << 28)
    stage.go_up_to("(exists|copy) data/")
    for bench, writers in stage.orders_within(closers, MEETING, FEW):
        assert same(writers) == load_seal(bench.store, CORPUS, "00001")
        assert bench.store.list(layout.STAGING) == {}


def test_one_publishes_while_another_seals_and_deletes_file_by_file(make_stage):
    stage = make_stage("sound", "broken", torn=True, TARGET_BYTES=1 << 28, GOOD_BYTES=1 << 28)
    stage.go_up_to("(exists|copy) data/")
    for bench, writers in stage.orders_within(closers, DELETING, 1):
        assert same(writers) == load_seal(bench.store, CORPUS, "00001")
        assert bench.store.list(layout.STAGING) == {}


def test_two_sealers_have_one_seal(make_stage):
    stage = make_stage("sound", "broken")
    stage.go_up_to("create .*/ledger")
    files = publish(stage.bench.store, stage.plan, stage.verdict)

    def sealers(bench: Bench) -> list[Writer]:
        act = lambda store: seal(store, stage.plan, stage.verdict, files)  # noqa: E731
        return [bench.writer("sealer", act) for _ in range(2)]

    for bench, writers in stage.orders(sealers):
        assert same(writers) == load_seal(bench.store, CORPUS, "00001")
        assert bench.store.list(layout.STAGING) == {}


@pytest.mark.parametrize(
    ("call", "ways"),
    [("put .*/0001/receipts/", {True, False}), ("create .*/verdict", {False}), ("create .*/ledger", {False})],
    ids=["computing", "deciding", "sealing"],
)
def test_a_driver_and_one_that_abandons_close_the_run_once(make_stage, call, ways):
    stage = make_stage("sound", "broken")
    stage.world.healed = True  # no attempt stops by itself
    stage.go_up_to(call)

    def both(bench: Bench) -> list[Writer]:
        return [bench.driver("run"), bench.driver("abandon")]

    abandoned = set()
    for bench, writers in stage.orders_within(both, MEETING, FEW):
        first, *others = [load_seal(bench.store, CORPUS, run) for run in find_runs(bench.store, CORPUS).names]
        assert writers[0].finish() in (first, None, *others)  # None: it was sealed already; others: what was given back
        assert writers[1].finish() in (first, None)
        assert bool(first.returned) >= bool(others)
        abandoned.add(first.returned > 0)
    assert abandoned == ways


def test_what_a_late_task_writes_while_garbage_is_collected_changes_nothing(make_stage):
    stage = make_stage()
    stage.go_to_the_end()
    posted = stage.world.posted[0]

    def late(bench: Bench) -> list[Writer]:
        return [bench.task(posted), bench.collector()]

    published = stage.bench.store.list(layout.DATA)
    for bench, writers in stage.orders(late):
        for writer in writers:
            writer.finish()
        assert bench.store.list(layout.DATA) == published
        collect_garbage(bench.store)
        assert bench.store.list(layout.STAGING) == {}


def test_garbage_is_not_what_an_open_run_has_staged(make_stage):
    stage = make_stage()
    stage.go_to_the_end()
    stage.world.put(URIS[5], "sound")
    stage.go_up_to("put .*/receipts/")

    def both(bench: Bench) -> list[Writer]:
        return [bench.driver("run"), bench.collector()]

    for bench, writers in stage.orders_within(both, MEETING, FEW):
        assert writers[0].finish() == load_seal(bench.store, CORPUS, "00002")
        writers[1].finish()
