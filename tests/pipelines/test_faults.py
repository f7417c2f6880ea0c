"""Every call that a run makes to its store, crossed with everything that may go wrong with it.

What is driven is pipelines.run itself, on a lake on the disk; only Ray, the source and what workers compute are stood
in for. The calls are recorded from undisturbed runs when the tests are collected, so that a new call is crossed without
anybody thinking of it. A test's name says chapter, step, act, object, which of several calls alike, and the trouble.
"""

import errno
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from hand_made import CORPUS, RECIPE, STAGES, listing, segment, whole, wire_table

import pipelines.attempt
import pipelines.plan
import pipelines.publish
import pipelines.receipts
import pipelines.run
import pipelines.scratch
import pipelines.seal
import pipelines.store
from pipelines.backends import S3, Disk
from pipelines.errors import PhonolakeError, RecipeError, StoreError
from pipelines.gc import collect_garbage
from pipelines.ledger import load_ledger
from pipelines.nodes import Cluster, Node
from pipelines.planned_recordings import planned_recordings
from pipelines.receipts import collect, covered
from pipelines.runs import find_runs, load_plan, load_seal
from pipelines.sink import LakeSink
from pipelines.store import TRIES, Store
from pipelines.tasks import Task
from schemas import layout, records
from schemas.records import Plan
from tests import faults
from tests.faults import CREATES, READS, WRITES, Call, Fault, faulty, in_turn

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None
SOUND, DAMAGED, BROKEN = URIS = ("/audio/0.wav", "/audio/1.wav", "/audio/2.wav")

# A run without Ray and without audio ----------------------------------------------------------------------------------


class Hands:
    """Does with one thread what Ray and its workers do.

    Attributes:
        step: what is being done.
        computed: recordings that workers began to compute.
    """

    def __init__(self) -> None:
        self.step = "command"
        self.computed: list[str] = []
        self._lakes: list[Store] = []

    def run(self, store: Store) -> None:
        """`phonolake run`."""
        self._command(pipelines.run.run, store)

    def abandon(self, store: Store) -> None:
        """`phonolake abandon`."""
        self._command(pipelines.run.abandon, store)

    def clean_up(self, store: Store) -> None:
        """A worker of the first attempt that was thought dead writes late; `phonolake gc`; the next night's run."""
        plan = load_plan(store, CORPUS, "00001")
        write_blocks(self, LakeSink(store, plan, 1), [whole("0" * 32, 1)], who="late ")
        with self.at("gc"):
            collect_garbage(store)
        self.run(store)

    def _command(self, command: Callable[..., Any], store: Store) -> None:
        self._lakes.append(store)
        try:
            command(RECIPE)
        finally:
            self._lakes.pop()

    @contextmanager
    def at(self, step: str) -> Iterator[None]:
        before, self.step = self.step, step
        try:
            yield
        finally:
            self.step = before

    def named(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def carried_out(*args: Any, **options: Any) -> Any:
            with self.at(step):
                return function(*args, **options)

        return carried_out

    def graph(
        self, store: Store, plan: Plan, recipe: Any, stages: Any, shares: Any, tasks: list[Task], sink: LakeSink
    ) -> None:
        """Do an attempt's tasks; of the first attempt only one receipt arrives, which ends within a recording."""
        with self.at("read the plan"):
            found = [one for task in tasks for one in planned_recordings(store, plan.recordings_file, task)]
        ids = {one.source.uri: one.recording_id for one in found}
        self.computed += ids.values()
        if sink._attempt == 1:
            write_blocks(self, sink, [whole(ids[SOUND], 2), [segment(ids[DAMAGED], 0)]])
            return
        rows = {SOUND: (2, "ok"), DAMAGED: (2, "partial"), BROKEN: (0, "failed")}
        for uri, recording in ids.items():
            write_blocks(self, sink, [whole(recording, *rows[uri])])

    def patches(self) -> Iterator[tuple[Any, str, Any]]:
        """Yield what is stood in for, and what is named a step."""
        run, attempt, publish = pipelines.run, pipelines.attempt, pipelines.publish
        yield run, "lake_store", lambda lake: self._lakes[-1]
        yield run, "connect", lambda: None
        yield run, "_shares", lambda *args: None
        yield run, "stages_of", lambda recipe: STAGES[:1]
        yield run, "list_source", lambda source, kept=None: listing(*URIS)
        yield attempt, "measure_cluster", lambda: Cluster((Node(2.0),))
        yield attempt, "Tally", SimpleNamespace(remote=lambda allowed: None)
        yield attempt, "ProgressDisplay", lambda *args: nullcontext()
        yield attempt, "LakeSink", lambda store, plan, number, tally: LakeSink(store, plan, number)
        yield attempt, "run_graph", self.graph
        yield publish, "ray", SimpleNamespace(remote=lambda **options: at_once, get=lambda result: result)
        yield publish, "rewritten", self.named("publish gathered", publish.rewritten)
        yield publish, "copied", self.named("publish whole", publish.copied)
        yield run, "attempt", self.named("claim", run.attempt)
        yield Store, "check_create_once", self.named("check create-once", Store.check_create_once)
        steps = {"find_runs": "find runs", "load_plan": "load plan", "find_delta": "subtract ledgers"}
        steps |= {"write_plan": "plan", "survey": "collect", "decide": "decide", "load_verdict": "load verdict"}
        for name, step in (steps | {"seal": "seal", "load_seal": "load seal"}).items():
            yield run, name, self.named(step, getattr(run, name))


def at_once(task: Callable[..., Any]) -> SimpleNamespace:
    """What ray.remote makes of a function, but done here and now."""
    return SimpleNamespace(remote=task)


def write_blocks(hands: Hands, sink: LakeSink, blocks: list[list[dict[str, Any]]], who: str = "") -> None:
    """Stage blocks and write one receipt for them."""
    with hands.at(f"{who}stage"):
        staged = [sink.stage(wire_table(block)) for block in blocks]
    with hands.at(f"{who}receipt"):
        sink.write(staged, None)


NAMES = itertools.count(1)


class OnceAsked:
    """DuckDB, which is asked every question once: a connection takes longer than all the rest of a run."""

    answers: dict[tuple[Any, ...], Any] = {}  # noqa: RUF012 - kept for all

    def __init__(self) -> None:
        self._tables: dict[str, pa.Table] = {}

    def register(self, name: str, table: pa.Table) -> None:
        self._tables[name] = table

    def sql(self, query: str, params: Any = None) -> SimpleNamespace:
        return SimpleNamespace(
            to_arrow_table=lambda: self._answer("to_arrow_table", query, params),
            fetchall=lambda: self._answer("fetchall", query, params),
        )

    def _answer(self, how: str, query: str, params: Any) -> Any:
        about = tuple((name, str(table.schema), repr(table.to_pylist())) for name, table in self._tables.items())
        key = (how, query, repr(params), about)
        if key not in self.answers:
            connection = duckdb.connect()
            for name, table in self._tables.items():
                connection.register(name, table)
            self.answers[key] = getattr(connection.sql(query, params=params), how)()
        return self.answers[key]


@contextmanager
def by_hand() -> Iterator[Hands]:
    """Drive pipelines.run without Ray, without pauses and without waiting for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        hands = Hands()
        for where, name, stand_in in hands.patches():
            patch.setattr(where, name, stand_in)
        patch.setattr(pipelines.scratch, "duckdb", SimpleNamespace(connect=lambda config: nullcontext(OnceAsked())))
        patch.setattr(pipelines.store, "FIRST_PAUSE_SECONDS", 0.0)
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=next(NAMES)))  # the same order, and so questions, every time
        yield hands


# What a lake must be --------------------------------------------------------------------------------------------------

RECORDS = re.compile(
    r"runs/prompts/(create-once-#|\d{5}/(plan\.json|plan-#\.parquet|attempts/\d{4}\.json|verdict\.json|"
    r"verdict-#\.parquet|ledger\.parquet|seal\.json))".replace("#", "[0-9a-f]{32}")
)
"""What may lie under runs/; plans' and verdicts' Parquet files of losing writers too."""

KEYS = ("recording_id", "segment_id", "kind", "model", "label", "stage")


def contents(store: Store) -> dict[str, list[str]]:
    """Return what a lake holds, whoever wrote it and when; everything that lies there is read on the way.

    Staging must be empty, and nothing may lie about that is no record and no published file.
    """
    assert store.list(layout.STAGING) == {}
    found: dict[str, list[str]] = {"ledger": rows_of(load_ledger(store, runs := find_runs(store, CORPUS)))}
    for path in store.list(layout.RUNS):
        assert RECORDS.fullmatch(path)
        if path.endswith(".json"):
            json.loads(store.read(path))
        elif path.endswith(".parquet"):
            pq.read_metadata(pa.BufferReader(store.read(path)))
    published = store.list(layout.DATA)
    for run in runs.names:
        sealed, plan = load_seal(store, CORPUS, run), load_plan(store, CORPUS, run)
        facts = (sealed.recordings, sealed.ok, sealed.partial, sealed.failed, sealed.audio_seconds, sealed.returned)
        found.setdefault("seals", []).append(repr(facts))
        for file in sealed.files:
            data = store.read(file.path)
            assert (published.pop(file.path), hashlib.sha256(data).hexdigest()) == (file.size_bytes, file.sha256)
            rows = pq.ParquetFile(pa.BufferReader(data)).read()
            assert {time.isoformat() for time in rows["ingested_at"].to_pylist()} == {plan.planned_at}
            assert rows.num_rows == file.rows
            found.setdefault(file.table, []).extend(rows_of(rows.drop_columns(["ingested_at"])))
    assert published == {}  # nothing that no seal names
    return {name: sorted(rows) for name, rows in found.items()}


def rows_of(table: pa.Table) -> list[str]:
    return [repr(row) for row in table.to_pylist()]


def signatures(backend: Disk | S3) -> dict[str, tuple[Any, ...]]:
    """Return the objects under data/ with what tells whether they are others than before."""
    if isinstance(backend, S3):
        found = backend.filesystem.find(backend.full(layout.DATA), detail=True)
        objects = {path: entry for path, entry in found.items() if entry["type"] != "directory"}
        return {path[len(backend.root) + 1 :]: (entry["ETag"], entry["size"]) for path, entry in objects.items()}
    stats = {path: os.stat(backend.full(path)) for path in backend.list(layout.DATA)}
    return {path: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}


class Watch:
    """Looks at data/ after every call that may change it: a file can be read and stays as it is, no row is twice.

    And who finds a recording in `recordings` finds the rest of its run.
    """

    def __init__(self, store: Store) -> None:
        self._backend = store.backend
        self._files: dict[str, tuple[Any, ...]] = {}
        self._bytes: dict[str, bytes] = {}
        self._rows: Counter[tuple[str, ...]] = Counter()
        self.wrong: list[str] = []  # asserting here would look like a store that fails

    def __call__(self, call: Call) -> None:
        if call.act not in WRITES:
            return
        found = signatures(self._backend)
        if gone := self._files.keys() - found.keys():
            self.wrong.append(f"after {call}: {gone} is gone")
        for path, signature in found.items():
            if self._files.get(path) != signature:
                self._files[path] = signature
                self._look(call, path)
            if path.startswith("data/recordings/") and (missing := self._named_beside(path) - found.keys()):
                self.wrong.append(f"after {call}: {path} is there before {missing}")

    def _named_beside(self, path: str) -> set[str]:
        """Return the files that the verdict on a run names, of which `recordings` is to be published last."""
        run = Path(path).name[: layout.RUN_DIGITS]
        verdict = records.read_verdict(self._backend.read(layout.verdict_file(CORPUS, run)))
        return {file.path for file in verdict.files}

    def _look(self, call: Call, path: str) -> None:
        data = self._backend.read(path)
        if path in self._bytes:
            if data != self._bytes[path]:
                self.wrong.append(f"after {call}: {path} is another file")
            return
        self._bytes[path] = data
        try:
            rows = pq.ParquetFile(pa.BufferReader(data)).read()
        except Exception as error:
            self.wrong.append(f"after {call}: {path} cannot be read: {error}")
            return
        keys = [name for name in KEYS if name in rows.column_names]
        table = path.split("/")[1]
        self._rows.update((table, *map(str, row.values())) for row in rows.select(keys).to_pylist())
        if twice := [row for row, count in self._rows.items() if count > 1]:
            self.wrong.append(f"after {call}: twice under data/: {twice}")


# The calls of undisturbed runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chapter:
    """A part of a run's life: how the lake is before it, what is done, the calls that are made, and what then is there.

    `calls` are (step, act, path), with a star for what is another every time.
    """

    start: dict[str, bytes]
    act: Callable[[Hands, Store], None]
    calls: list[tuple[str, str, str]]
    holds: dict[str, list[str]]


@cache
def chapters() -> dict[str, Chapter]:
    """Live through a run undisturbed, from several points on.

    Each chapter begins with what a driver leaves that dies before it: so the calls that follow are made by `phonolake
    run` as it resumes, and a test need not begin every run anew.
    """
    with by_hand() as hands, TemporaryDirectory(prefix="phonolake-", dir=FAST) as folder:
        attempted = left_by(hands, folder, {}, Fault("put", "staging/*/0002/*", faults.full, times=None))
        decided = left_by(hands, folder, attempted, Fault("*", "data/*", faults.full, times=None))
        sealed = left_by(hands, folder, decided)
        return {
            "new run": recorded(hands, folder, {}, Hands.run),
            "resumed": recorded(hands, folder, attempted, Hands.run),
            "decided": recorded(hands, folder, decided, Hands.run),
            "sealed": recorded(hands, folder, sealed, Hands.clean_up),
            "abandoned": recorded(hands, folder, attempted, Hands.abandon),
        }


def left_by(hands: Hands, folder: str, start: dict[str, bytes], *ends: Fault) -> dict[str, bytes]:
    """Return what lies in a lake after a run, which these faults end."""
    store, backend = faulty(restored(start, folder), *ends)
    with pytest.raises(PhonolakeError) if ends else nullcontext():
        hands.run(store)
    assert bool(backend.struck) == bool(ends)
    return {path: Path(store.full(path)).read_bytes() for path in store.list("")}


def restored(start: dict[str, bytes], folder: str | Path) -> Store:
    """A lake in a folder with just these objects."""
    shutil.rmtree(folder)
    for path, data in start.items():
        file = Path(folder, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return Store(str(folder))


def recorded(hands: Hands, folder: str, start: dict[str, bytes], act: Callable[[Hands, Store], None]) -> Chapter:
    store, calls = restored(start, folder), []
    watched, backend = faulty(store, after_each=lambda call: calls.append((hands.step, call.act, pattern(call.path))))
    act(hands, watched)
    assert len(calls) == len(backend.calls)
    collect_garbage(store)
    return Chapter(start, act, calls, contents(store))


def pattern(path: str) -> str:
    """Return a path with a star for what differs from run to run."""
    path = re.sub(r"[0-9a-f]{32}|(?<=dt=)[-0-9]{10}", "*", path)
    return re.sub(r"(?<=/)\d{4}(?=/|\.json)", "*", path)


@dataclass(frozen=True)
class Place:
    """A call of a chapter: the `number`-th (from 1) of this act on such a path."""

    chapter: str
    step: str
    act: str
    path: str
    number: int

    def __str__(self) -> str:
        return f"{self.chapter}:{self.step}:{self.act}:{self.path}#{self.number}"


@cache
def places() -> list[Place]:
    """Every call, in the last of the chapters in which it is made: the same step, act and object are the same call.

    What abandons is a command of its own, up to where it goes on as every other does.
    """
    found: list[Place] = []
    later: set[tuple[str, str, str]] = set()
    for name, chapter in reversed(chapters().items()):
        counts: Counter[tuple[str, str]] = Counter()
        here = []
        for step, act, path in chapter.calls:
            counts[act, path] += 1
            if (step, act, path) not in later and not (name == "abandoned" and step.startswith(("publish", "seal"))):
                here.append(Place(name, step, act, path, counts[act, path]))
        found = here + found
        if name != "abandoned":
            later.update(chapter.calls)
    return found


# What may go wrong ----------------------------------------------------------------------------------------------------

ACTS = (*READS, *WRITES)
PUTS = ("put", "create", "create_from", "copy")


@dataclass(frozen=True)
class Trouble:
    """Something that may go wrong with certain acts: it passes within the bounded tries, or it stays."""

    name: str
    acts: tuple[str, ...]
    stays: bool
    fault: Callable[..., Fault]


THREE_WAYS = (faults.hung_up, faults.server_error, faults.timed_out)
TROUBLES = [
    Trouble("fails three times", ACTS, False, lambda *at: Fault(*at, in_turn(*THREE_WAYS), times=TRIES - 1)),
    Trouble("is cut", ("read", "part", "local_copy"), False, lambda *at: Fault(*at, faults.cut, "midway")),
    Trouble("half deletes", ("delete",), False, lambda *at: Fault(*at, faults.slow_down, "midway")),
    Trouble("loses three answers", WRITES, False, lambda *at: Fault(*at, faults.timed_out, "after", times=TRIES - 1)),
    Trouble("finds its own", CREATES, False, lambda *at: Fault(*at, faults.taken, "after")),
    Trouble("is down", ACTS, True, lambda *at: Fault(*at, faults.slow_down, times=None)),
    Trouble("is unreachable", ("delete",), True, lambda *at: Fault(*at, faults.unreachable, times=None)),
    Trouble(
        "never answers", ("put", "copy", "delete"), True, lambda *at: Fault(*at, faults.reset, "after", times=None)
    ),
    Trouble("is full", (*PUTS, "local_copy"), True, lambda *at: Fault(*at, faults.full, "midway", times=None)),
    Trouble("is expired", ACTS, True, lambda *at: Fault(*at, faults.expired, spreads=True)),
]


def crossed(*, stays: bool) -> list[tuple[Place, Trouble]]:
    """Return every call with every trouble that it may have."""
    pairs = [(place, trouble) for place in places() for trouble in TROUBLES]
    return [(place, trouble) for place, trouble in pairs if place.act in trouble.acts and trouble.stays == stays]


def moments() -> Iterator[Any]:
    """Yield every moment in which another may act: between any two calls, and between a write and its second try."""
    for place in places():
        yield pytest.param(place, "before", id=f"before {place}")
        if place.act in WRITES:
            yield pytest.param(place, "after", id=f"after the lost answer of {place}")


def fault_at(place: Place, trouble: Trouble) -> Fault:
    return replace(trouble.fault(place.act, place.path), first=place.number)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Cross the calls, which nobody lists."""
    if "trouble" in metafunc.fixturenames:
        cases = [
            pytest.param(place, trouble, id=f"{place} {trouble.name}")
            for place, trouble in crossed(stays="stays" in metafunc.function.__name__)
        ]
        metafunc.parametrize(("place", "trouble"), cases)
    elif "when" in metafunc.fixturenames:
        metafunc.parametrize(("place", "when"), list(moments()))


@pytest.fixture(scope="module")
def hands() -> Iterator[Hands]:
    with by_hand() as hands:
        yield hands


@pytest.fixture
def folder() -> Iterator[str]:
    with TemporaryDirectory(prefix="phonolake-", dir=FAST) as folder:
        yield folder


# The matrix -----------------------------------------------------------------------------------------------------------


def test_the_matrix_has_every_step_of_the_protocol():
    steps = {(place.step, place.act) for place in places()}
    assert steps >= {
        ("check create-once", "create"),
        ("plan", "put"),
        ("plan", "create"),
        ("claim", "create"),
        ("stage", "put"),
        ("receipt", "put"),
        ("collect", "list"),
        ("collect", "read"),
        ("decide", "put"),
        ("decide", "create"),
        ("publish whole", "copy"),
        ("publish gathered", "local_copy"),
        ("publish gathered", "create_from"),
        ("seal", "create"),
        ("seal", "delete"),
        ("gc", "delete"),
        ("subtract ledgers", "read"),
    }
    assert {place.step for place in places() if place.chapter == "abandoned"} >= {"collect", "decide"}
    assert "read the plan" in {place.step for place in places()}
    assert {place.act for place in places()} >= set(ACTS) - {"open", "part"}  # which one reader makes, and need not


def test_what_passes_within_the_tries_changes_nothing(hands, folder, place, trouble):
    check_passes(hands, restored(chapters()[place.chapter].start, folder), place, trouble)


def check_passes(hands: Hands, store: Store, place: Place, trouble: Trouble) -> None:
    """Live through a chapter with a trouble that passes."""
    chapter, watch = chapters()[place.chapter], Watch(store)
    failing, backend = faulty(store, fault_at(place, trouble), after_each=watch)
    chapter.act(hands, failing)
    assert backend.struck
    assert not watch.wrong
    collect_garbage(store)
    assert contents(store) == chapter.holds


def test_what_stays_is_told_and_the_same_command_then_finishes(hands, folder, place, trouble):
    check_stays(hands, restored(chapters()[place.chapter].start, folder), place, trouble)


def check_stays(hands: Hands, store: Store, place: Place, trouble: Trouble) -> None:
    """Live through a chapter with a trouble that stays, and again without it."""
    chapter, watch = chapters()[place.chapter], Watch(store)
    failing, backend = faulty(store, fault_at(place, trouble), after_each=watch)
    try:
        chapter.act(hands, failing)
    except Exception as error:
        check_told(error, store, backend.struck)
    else:  # staging that stays is for the next `phonolake gc`; and a name that is taken is, whatever the store says
        found = trouble.name == "never answers" and place.act == "put"  # under a name that is ours alone
        assert found or place.act == "delete" or (place.step == "check create-once" and place.number == 2)
    assert backend.struck
    done = received(store)
    hands.computed.clear()
    healthy, _ = faulty(store, after_each=watch)
    chapter.act(hands, healthy)
    assert not done & set(hands.computed)
    assert not watch.wrong
    collect_garbage(store)
    assert contents(store) == chapter.holds


SAID = {
    "local_copy": "read",
    "open": "read",
    "exists": "look for",
    "part": "read",
    "put": "write",
    "create_from": "create",
}


def check_told(error: Exception, store: Store, struck: list[Call]) -> None:
    """Make sure that an error is one of ours, and says what could not be done to which object."""
    assert isinstance(error, PhonolakeError)
    assert error.exit_code == 1
    acts = {act for call in struck for act in (SAID.get(call.act, call.act), "create")}  # which reads back, too
    assert any(f"cannot {act} " in str(error) for act in acts)
    assert any(store.url(call.path) in str(error) for call in struck)


def received(store: Store) -> set[str]:
    """Return the recordings that receipts of an open run cover."""
    if (run := find_runs(store, CORPUS).open) is None:
        return set()
    return set(covered(collect(store, load_plan(store, CORPUS, run)).winners()).to_pylist())


def test_another_driver_may_finish_while_a_call_takes_its_time(hands, folder, place, when):
    chapter = chapters()[place.chapter]
    watch = Watch(store := restored(chapter.start, folder))

    def other() -> None:
        watched, _ = faulty(store, after_each=watch)
        with hands.at("command"):
            collect_garbage(watched)  # which leaves what is not sealed
            chapter.act(hands, watched)
            collect_garbage(watched)

    lost = faults.timed_out if when == "after" else None
    slow = Fault(place.act, place.path, lost, when, first=place.number, meanwhile=other)
    late, backend = faulty(store, slow, after_each=watch)
    chapter.act(hands, late)
    assert backend.struck
    assert not watch.wrong
    collect_garbage(store)
    assert contents(store) == chapter.holds


@pytest.mark.parametrize("seed", range(6))
def test_many_troubles_at_once_cost_no_more_than_more_runs(hands, folder, seed):
    chance, chapter = random.Random(seed), chapters()["new run"]
    store = restored(chapter.start, folder)
    watch, struck = Watch(store), 0
    passing, staying = (crossed(stays=stays) for stays in (False, True))
    while not find_runs(store, CORPUS).sealed:
        some = [*chance.sample(passing, 5), *chance.sample(staying, 2)] if struck < 20 else []
        failing, backend = faulty(store, *(fault_at(*case) for case in some), after_each=watch)
        with suppress(PhonolakeError):  # and no other
            hands.run(failing)
        struck += len(backend.struck)
    assert struck
    assert not watch.wrong
    collect_garbage(store)
    assert contents(store) == chapter.holds


# How a store is patient -----------------------------------------------------------------------------------------------

STORE_ACTS: dict[str, Callable[[Store, Path], Any]] = {
    "read": lambda store, folder: store.read("a"),
    "open": lambda store, folder: store.read_parts("a", lambda file: file.read()),
    "local_copy": lambda store, folder: store.local_copy("a", folder),
    "exists": lambda store, folder: store.exists("a"),
    "list": lambda store, folder: store.list("."),
    "put": lambda store, folder: store.put("b", b"1"),
    "create": lambda store, folder: store.create("b", b"1"),
    "create_from": lambda store, folder: store.create_from("b", folder / "a"),
    "copy": lambda store, folder: store.copy("a", "b"),
    "delete": lambda store, folder: store.delete_folder("."),
}


def told(store: Store, act: str, folder: Path) -> str:
    """Return what the store says when an act fails for good."""
    (folder / "a").write_bytes(b"1")
    with pytest.raises(StoreError) as caught:
        STORE_ACTS[act](store, folder)
    return str(caught.value)


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """The pauses that a store makes, which take no time."""
    taken: list[float] = []
    monkeypatch.setattr(pipelines.store, "time", SimpleNamespace(sleep=taken.append))
    monkeypatch.setattr(pipelines.store, "FIRST_PAUSE_SECONDS", 0.25)
    return taken


@pytest.mark.parametrize("act", STORE_ACTS)
@pytest.mark.parametrize("error", [faults.slow_down, faults.timed_out, faults.reset, faults.hung_up, faults.cut])
def test_tries_are_bounded_and_the_pauses_between_them_grow_and_differ(tmp_path, pauses, act, error):
    for _ in range(2):
        store, backend = faulty(Store(str(tmp_path)), Fault(act, error=error, times=None))
        said = told(store, act, tmp_path)
        assert type(error()).__name__ in said
        assert [call.act for call in backend.calls].count(act) == TRIES
    once, again = pauses[: TRIES - 1], pauses[TRIES - 1 :]
    assert len(once) == len(again) == TRIES - 1
    assert once != again
    for number, pause in enumerate(pauses):
        assert 0.5 <= pause / (0.25 * 2 ** (number % (TRIES - 1))) <= 1.5


@pytest.mark.parametrize("act", STORE_ACTS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_what_trying_again_cannot_mend_is_tried_once(tmp_path, pauses, act, number):
    store, backend = faulty(Store(str(tmp_path)), Fault(act, error=lambda: OSError(number, "no"), times=None))
    told(store, act, tmp_path)
    assert [call.act for call in backend.calls].count(act) == 1
    assert pauses == []


@pytest.mark.parametrize("error", [faults.expired, faults.expired_at_head], ids=["body", "head"])
def test_credentials_that_ran_out_are_named_as_what_they_are(tmp_path, pauses, error):
    store, _ = faulty(Store(str(tmp_path)), Fault("read", error=error, times=None))
    assert re.search("expired|credentials", told(store, "read", tmp_path).replace(str(tmp_path), ""))


# What the matrix has no place for -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES], ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_listed_is_not_passed_over(hands, folder, monkeypatch, number):
    store = restored(chapters()["sealed"].start, folder)
    unreadable, scan = [store.full("runs/prompts/00001")], os.scandir

    def scandir(path: str) -> Any:
        if str(path) in unreadable:
            unreadable.remove(str(path))
            raise OSError(number, os.strerror(number))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with suppress(StoreError):  # as good as trying again
        assert find_runs(store, CORPUS).sealed == {"00001"}
    assert unreadable == []


@pytest.mark.parametrize("error", [faults.expired, faults.slow_down])
def test_garbage_that_could_not_be_deleted_is_not_told_as_deleted(hands, folder, error):
    store = restored(chapters()["sealed"].start, folder)
    store.put(layout.fragment_file(CORPUS, "00001", 1, "segments", "late"), b"1")
    failing, backend = faulty(store, Fault("delete", error=error, times=None))
    try:
        found = collect_garbage(failing)
    except PhonolakeError:
        pass  # as good
    else:
        assert (found.folders, found.objects) == ([], 0)
    assert backend.struck


def test_a_temporary_file_may_vanish_while_garbage_is_collected(hands, folder, monkeypatch):
    store = restored(chapters()["sealed"].start, folder)
    half_written = Path(store.full(layout.TEMPORARY), "a")
    half_written.parent.mkdir(parents=True)
    half_written.touch()
    listed = list(half_written.parent.glob("*"))
    half_written.unlink()
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter(listed))
    assert collect_garbage(store).temporary == 0


class Overwriting(Disk):
    """A store that knows nothing of If-None-Match."""

    def write(self, path: str, data: bytes, *, create: bool) -> None:
        super().write(path, data, create=False)


@pytest.mark.parametrize(
    "held_up",
    [
        [],
        [Fault("create", error=faults.slow_down, first=2)],
    ],
    ids=["sound", "after a 503"],
)
def test_a_store_that_overwrites_is_refused(tmp_path, pauses, held_up):
    (store := Store(str(tmp_path))).__dict__["backend"] = Overwriting(str(tmp_path))
    failing, _ = faulty(store, *held_up)
    with pytest.raises(RecipeError, match="overwrites"):
        failing.check_create_once("runs/x")


# The faults are real --------------------------------------------------------------------------------------------------


class BadServer(BaseHTTPRequestHandler):
    """S3 that answers every request alike: `status` with `code`, or a `cut` body, or nothing at all (`closed`)."""

    protocol_version = "HTTP/1.1"
    answer: tuple[int, str] = (0, "")
    size = 1000

    def do_HEAD(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, code = self.answer
        if code == "closed":
            self.close_connection = True
            return
        head = status == 200 and self.command == "HEAD"
        body = b"x" * self.size if status == 200 else _refusal(code)
        self.send_response(status)
        self.send_header("Content-Length", str(self.size if head else len(body)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Sun, 01 Nov 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if code == "cut" else body)
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def _refusal(code: str) -> bytes:
    condition = "<Condition>If-None-Match</Condition>" if code == "PreconditionFailed" else ""
    return f"<Error><Code>{code}</Code><Message>no</Message>{condition}</Error>".encode()


@pytest.fixture(scope="module")
def bad_server() -> Iterator[type[BadServer]]:
    """A server whose answer the test sets, and s3fs with credentials for it and without patience of its own."""
    handler = type("Handler", (BadServer,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
            patch.setenv(name, "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        yield handler
    server.shutdown()
    server.server_close()
    thread.join()


S3_ACTS: dict[str, Callable[[S3, Path], Any]] = {
    "read": lambda backend, folder: backend.read("a"),
    "part": lambda backend, folder: backend.open("a").read(10),
    "local_copy": lambda backend, folder: backend.local_copy("a", folder),
    "exists": lambda backend, folder: backend.exists("a"),
    "list": lambda backend, folder: backend.list("a"),
    "put": lambda backend, folder: backend.write("a", b"1", create=False),
    "create": lambda backend, folder: backend.write("a", b"1", create=True),
    "copy": lambda backend, folder: backend.copy("a", "b"),
    "delete": lambda backend, folder: backend.delete("a"),
}


@pytest.mark.parametrize(
    ("answer", "acts", "error"),
    [
        ((200, "cut"), ["read", "part", "local_copy"], faults.cut),
        ((0, "closed"), S3_ACTS, faults.hung_up),
        ((500, "InternalError"), ["put", "create", "list", "local_copy"], faults.server_error),
        ((503, "SlowDown"), ["put", "create", "list", "local_copy"], faults.slow_down),
        ((400, "RequestTimeout"), ["put", "create"], faults.timed_out),
        ((412, "PreconditionFailed"), ["create"], faults.taken),
        ((400, "ExpiredToken"), ["put", "create", "list", "local_copy", "delete"], faults.expired),
        ((400, "ExpiredToken"), ["read", "part", "exists", "copy"], faults.expired_at_head),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_s3fs_raises_what_the_faults_raise_and_never_gives_a_part(bad_server, tmp_path, answer, acts, error):
    bad_server.answer = answer
    backend = S3("bucket/lake", {"endpoint_url": bad_server.url})
    for act in acts:
        with pytest.raises(type(error())) as caught:
            S3_ACTS[act](backend, tmp_path)
        assert type(caught.value) is type(error()), act
        assert getattr(caught.value, "errno", None) == getattr(error(), "errno", None), act


def test_s3fs_raises_what_the_faults_raise_where_there_is_no_server(bad_server, tmp_path):
    with pytest.raises(type(faults.unreachable())):
        S3("bucket/lake", {"endpoint_url": "http://127.0.0.1:9"}).read("a")
