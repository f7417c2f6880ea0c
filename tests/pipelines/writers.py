"""Writers that take turns: real drivers, tasks and collectors on one lake, each stopping before every store call.

A Writer is a thread that stands still until it is told to make its next call, so that at most one runs at any time and
the test decides the order of all calls. One that vanishes stops before a call for good: what SIGKILL leaves behind.

Drivers are pipelines.run itself, without Ray: a World stands in for the source and for what workers compute, and
carries out the tasks of an attempt in the driver's own thread. A task that runs again, or late, is a writer too.
"""

import os
import random
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from zlib import crc32

import duckdb
import pyarrow as pa
import pytest
from hand_made import CORPUS, STAGES, Row, listing

import pipelines.ledger
import pipelines.plan
import pipelines.publish
import pipelines.receipts
import pipelines.retry
import pipelines.run
import pipelines.scratch
import pipelines.seal
import pipelines.store
import pipelines.tasks
import pipelines.verdict
from pipelines.attempt import State, _claim, survey
from pipelines.backends import S3, Disk
from pipelines.errors import PhonolakeError
from pipelines.gc import collect_garbage
from pipelines.planned_recordings import planned_recordings
from pipelines.recipe import Recipe, parse_recipe
from pipelines.runs import read_table
from pipelines.sink import LakeSink
from pipelines.stages import Stage
from pipelines.store import Store
from pipelines.tasks import Task, pack_tasks
from pipelines.verify import verify
from schemas import layout, wire
from schemas.failures import TRANSIENT
from schemas.records import Plan
from workers.ingest import Recording

HANGS_SECONDS = 120.0
FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None  # fsync costs nothing there

LATER_STAGES = [Stage("tags", name, {}, None, f"f-{name}") for name in ("second", "third")]
"""What the recipe may gain, in this order."""

CUTS = 3
"""Ways in which the recipe may cut segments."""
LONGEST = 30
"""Seconds that the first of them allows; every other allows one less than the one before."""


class Vanished(BaseException):
    """The writer is gone; not an Exception, so that nothing on the way stops it."""


class AttemptStopped(PhonolakeError):
    """Ray has given up in the middle of an attempt."""


class Writer:
    """A thread that stands still before every store call until it may go on.

    Attributes:
        before: the call it stands before: an act and the paths it bears on, or nothing before its first.
        ended: whether it has ended; then `result` is what it returned and `error` what it raised.
    """

    def __init__(self, name: str, store: Store, act: Callable[[], Any]) -> None:
        self.name, self.store, self.ended, self.before = name, store, False, ""
        self.result: Any = None
        self.error: BaseException | None = None
        self._act, self._gone = act, False
        self._go, self._still = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._still.acquire()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def go_on(self, calls: int = 1) -> None:
        """Let it make its next calls; the first takes it to the first of them."""
        for _ in range(calls):
            if not self.ended:
                self._let_go()

    def finish(self) -> Any:
        """Let it go on to its end; return what it returns or raise what it raises."""
        while not self.ended:
            self._let_go()
        if self.error:
            raise self.error
        return self.result

    def vanish(self) -> None:
        """End it where it stands."""
        self._gone = True
        if not self.ended:
            self._let_go()
        assert self.ended

    def stop(self, call: str) -> None:
        """Stand still before a call, in the writer's thread, until it may go on."""
        self.before = call
        if not self._gone:
            self._still.release()
            self._go.acquire()
        if self._gone:
            raise Vanished

    def _let_go(self) -> None:
        self._go.release()
        if not self._still.acquire(timeout=HANGS_SECONDS):
            raise RuntimeError(f"{self.name} neither stands still nor ends")
        if self.ended:
            self._thread.join()

    def _run(self) -> None:
        self._go.acquire()
        _here.writer = self
        try:
            if not self._gone:
                self.result = self._act()
        except Vanished:
            pass
        except BaseException as error:
            self.error = error
        self.ended = True
        self._still.release()


_here = threading.local()
_DATABASE = duckdb.connect(config={"threads": 1})


class Stepping:
    """A backend, mixed in before the real one, on which a writer stands still before every call.

    Attributes:
        stop: where the writer stands still.
        touched: told of every path that was written or deleted.
        about: what the next receipt proves, kept with its path in `proofs`.

    Calls name all paths that they bear on: also those of local copies, which are read until a file is made of them.
    """

    stop: Callable[[str], None]
    touched: Callable[[str], None]

    def __init__(self, *root: Any) -> None:
        super().__init__(*root)
        self.about: Any = None
        self.proofs: dict[str, Any] = {}
        self._lent: list[str] = []

    def read(self, path: str) -> bytes:
        self.stop(f"read {path}")
        return super().read(path)

    def open(self, path: str) -> IO[bytes]:
        self.stop(f"open {path}")
        return super().open(path)

    def local_copy(self, path: str, folder: Path) -> Path:
        self._lent.append(path)
        self.stop(f"local_copy {' '.join(self._lent[::-1])}")
        return super().local_copy(path, folder)

    def exists(self, path: str) -> bool:
        self.stop(f"exists {path}")
        return super().exists(path)

    def list(self, folder: str) -> dict[str, int]:
        self.stop(f"list {folder}")
        return super().list(folder)

    def write(self, path: str, data: bytes, *, create: bool) -> None:
        self.stop(f"{'create' if create else 'put'} {path}")
        super().write(path, data, create=create)
        if "/receipts/" in path:
            self.proofs[path] = self.about
        self.touched(path)

    def write_file(self, path: str, file: Path) -> None:
        self._lent.clear()
        self.stop(f"create {path}")
        super().write_file(path, file)
        self.touched(path)

    def copy(self, source: str, target: str) -> None:
        self.stop(f"copy {target} {source}")
        super().copy(source, target)
        self.touched(target)

    def delete(self, folder: str) -> None:
        self.stop(f"delete {folder}")
        paths = sorted(super().list(folder))
        super().delete(folder)
        for path in [folder, *paths]:
            self.touched(path)


class SteppingS3(Stepping, S3):
    """S3 with stops."""


class SteppingDisk(Stepping, Disk):
    """A disk with stops; also between the steps of calls that have several.

    Attributes:
        torn: whether it stands still in the middle of a listing and between files to delete, as buckets make one.
    """

    torn = False

    def list(self, folder: str) -> dict[str, int]:
        if not self.torn:
            return super().list(folder)
        self.stop(f"list {folder}")
        found = {}
        for number, (parent, folders, names) in enumerate(os.walk(self.full(folder))):
            folders.sort()
            if number:
                self.stop(f"list {folder}")
            for file in (Path(parent, name) for name in names):
                if file.exists():
                    found[file.relative_to(self.root).as_posix()] = file.stat().st_size
        return found

    def delete(self, folder: str) -> None:
        """Delete at once, or file by file, when what is written meanwhile is in the way."""
        if not self.torn and not self.full(folder).is_file():
            super().delete(folder)
            return
        self.stop(f"delete {folder}")
        if self.full(folder).is_file():
            Disk.delete(self, folder)
            self.touched(folder)
            return
        for path in sorted(Disk.list(self, folder)):
            self.stop(f"delete {path}")
            self.full(path).unlink(missing_ok=True)
            self.touched(path)
        self.stop(f"delete {folder}")
        for parent, _, _ in os.walk(self.full(folder), topdown=False):
            os.rmdir(parent)


@dataclass(frozen=True)
class Thing:
    """An object of the source: its uri, its version and what is the matter with it.

    Natures: `sound`, `damaged` (partial), `broken` (never decodes), `flaky` (the store does not always deliver it),
    `silent` (no segments), `hard` (a model never does its first segment), `moody` (models do not always do it).
    """

    uri: str
    etag: str
    nature: str


NATURES = ("sound", "sound", "damaged", "broken", "flaky", "silent", "hard", "moody")


@dataclass(frozen=True)
class Execution:
    """One execution of one task; its number marks every row it computes."""

    number: int
    run: str
    attempt: int


@dataclass(frozen=True)
class Computed:
    """What an execution made of a recording: its outcome, how many segments, and which (stage, segment) failed."""

    outcome: str
    n_segments: int
    failed: frozenset[tuple[str, int]] = frozenset()
    transient: bool = False

    @property
    def succeeded(self) -> bool:
        return self.outcome in ("ok", "partial")


@dataclass(frozen=True)
class Posted:
    """A task that an attempt was to do; workers may do it any number of times, at any time."""

    plan: Plan
    attempt: int
    task: Task


@dataclass
class World:
    """The source, and what workers make of it.

    Attributes:
        seed: decides what is left to chance.
        things: the source by uri.
        ever: every object there ever was, by (uri, etag).
        healed: nothing fails any more that might not.
        gained: how many of LATER_STAGES the recipe has.
        cut: in which of CUTS ways it cuts segments.
        returned: whether an object was ever put back to an earlier version.
        executions: all there were, by number, with what they made of each recording.
        posted: all tasks of all attempts.
        proofs: receipts that were written, by path: what they prove.
        again: recordings that an attempt was about to compute though receipts of them were there; there must be none.
    """

    seed: int = 0
    things: dict[str, Thing] = field(default_factory=dict)
    ever: dict[tuple[str, str], Thing] = field(default_factory=dict)
    healed: bool = False
    gained: int = 0
    cut: int = 0
    returned: bool = False
    executions: dict[int, tuple[Execution, dict[str, Computed]]] = field(default_factory=dict)
    posted: list[Posted] = field(default_factory=list)
    proofs: dict[str, "Proof"] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)

    def put(self, uri: str, nature: str) -> None:
        """Write an object, or another version of it."""
        thing = Thing(uri, f"v{len(self.ever)}", nature)
        self.things[uri] = self.ever[uri, thing.etag] = thing

    def put_back(self, uri: str) -> None:
        """Write an earlier version of an object again, if there is one that does not stand now."""
        now = self.things.get(uri)
        earlier = [thing for (name, _), thing in self.ever.items() if name == uri and thing != now]
        if earlier:
            self.returned = True
            self.things[uri] = earlier[self.chance("back", uri, now) % len(earlier)]

    def listing(self) -> pa.Table:
        """The source as it is now."""
        return listing(*(f"{thing.uri}#{thing.etag}" for thing in self.things.values()))

    def copy(self) -> "World":
        """The same world, which goes its own way."""
        executions = {number: (one, dict(made)) for number, (one, made) in self.executions.items()}
        own = {"things": dict(self.things), "ever": dict(self.ever), "executions": executions}
        return replace(self, **own, posted=list(self.posted), proofs=dict(self.proofs), again=list(self.again))

    @property
    def stages(self) -> list[Stage]:
        """The recipe's stages as they are now."""
        return cut_so(self.cut, [*STAGES, *LATER_STAGES[: self.gained]])

    @property
    def recipe(self) -> Recipe:
        """The recipe as it is now."""
        models = [{"model": stage.name} for stage in self.stages[1:]]
        more = {"limits": {"max_failed_fraction": 1.0}, "segments": {"max_seconds": LONGEST - self.cut}}
        parts = {"corpus": CORPUS, "source": {"uri": "/audio/"}, "lake": {"uri": "/lake"}}
        return parse_recipe({**parts, **more, "tags": models}, "a world's recipe")

    def chance(self, *of: Any) -> int:
        """A number that depends on nothing else."""
        return crc32(repr((self.seed, *of)).encode())

    def complete(self, run: str, paths: Iterable[str]) -> dict[str, dict[int, bool]]:
        """For each recording that these receipts cover: the attempts that do so alone, and whether it succeeded."""
        closed: dict[tuple[str, int], list[Computed]] = {}
        held: dict[tuple[str, int], set[int]] = {}
        for execution, rows in ((self.proofs[path].execution, self.proofs[path].rows) for path in paths):
            for recording, index in rows if execution.run == run else ():
                if index is None:
                    made = self.executions[execution.number][1][recording]
                    closed.setdefault((recording, execution.attempt), []).append(made)
                else:
                    held.setdefault((recording, execution.attempt), set()).add(index)
        found: dict[str, dict[int, bool]] = {}
        for (recording, attempt), several in closed.items():
            best = max(several, key=lambda made: made.succeeded)
            if held.get((recording, attempt), set()).issuperset(range(best.n_segments)):
                found.setdefault(recording, {})[attempt] = best.succeeded
        return found

    def may_pass(self, run: str, recording: str) -> bool:
        """Whether the recording ever failed in a run for a reason that may pass."""
        return any(
            execution.run == run and recording in made and made[recording].transient
            for execution, made in self.executions.values()
        )

    def execution(self, plan: Plan, attempt: int) -> Execution:
        """Begin to execute a task."""
        execution = Execution(len(self.executions) + 1, plan.run, attempt)
        self.executions[execution.number] = execution, {}
        return execution

    def compute(self, recording: Recording, execution: Execution) -> Computed:
        """Decide what an execution makes of a recording: attempts may differ in everything, executions in failures."""
        now, planned = self.things.get(recording.source.uri), (recording.source.uri, recording.source.etag)
        nature, coin = self.ever[planned].nature, self.chance("coin", recording.recording_id, execution) % 2
        if now is None:
            return Computed("source_missing", 0)
        if now.etag != recording.source.etag:
            return Computed("source_changed", 0, transient=True)
        if nature == "broken":
            return Computed("unreadable", 0)
        if nature == "flaky" and coin and not self.healed:
            return Computed("fetch_failed", 0, transient=True)
        n_segments = 1 + self.chance(recording.recording_id, execution.run, execution.attempt) % 3
        failed = set()
        for stage in recording.stages_of(0):
            mood = nature == "moody" and self.chance(recording.recording_id, execution, stage) % 2 and not self.healed
            if stage.startswith("tags/") and (mood or (nature == "hard" and stage == "tags/toy")):
                failed.add((stage, 0))
        outcome = "partial" if nature == "damaged" else "ok"
        return Computed(outcome, 0 if nature == "silent" else n_segments, frozenset(failed))


def cut_so(cut: int, stages: list[Stage]) -> list[Stage]:
    """The stages where segments are cut in another way: their fingerprints, and of all that stands on them, differ."""
    return [replace(stage, fingerprint=f"{stage.fingerprint}-cut-{cut}") if cut else stage for stage in stages]


@dataclass(frozen=True)
class Proof:
    """What a receipt proves: who computed which rows of which recordings, (recording_id, segment_index or None)."""

    execution: Execution
    rows: frozenset[tuple[str, int | None]]


def wire_rows(recording: Recording, computed: Computed, mark: int) -> list[Row]:
    """A recording's wire rows; every row of the lake that comes of them carries the mark."""
    keys = {"recording_id": recording.recording_id, "uri": recording.source.uri}
    rows: list[Row] = [
        {
            **keys,
            "stages": recording.stages_of(index),
            "segment_index": index,
            "start_seconds": float(index),
            "end_seconds": index + 1.0,
            "speech_ratio": float(mark),
            "pcm": b"\0\0",
            **_stage_columns(recording.stages_of(index), index, computed, mark),
        }
        for index in range(computed.n_segments)
    ]
    closing = {"uri": recording.source.uri, "size_bytes": 10, "n_segments": computed.n_segments}
    if computed.succeeded:
        closing |= {"status": computed.outcome, "decoded_seconds": float(mark)}
    else:
        closing |= {"status": "failed", "failure": _failure("fetch", computed.outcome, mark)}
    return [*rows, {**keys, "stages": recording.stages, "closing": closing}]


def _stage_columns(stages: list[str], index: int, computed: Computed, mark: int) -> Row:
    columns: Row = {}
    for stage in (one for one in stages if one.startswith("tags/")):
        fails = (stage, index) in computed.failed
        tag = {"model": stage.removeprefix("tags/"), "revision": "1", "label": "noise", "score": float(mark)}
        columns[wire.rows_column(stage)] = [] if fails else [tag]
        columns[wire.error_column(stage)] = _failure(stage, "model_failed", mark) if fails else None
    return columns


def _failure(stage: str, code: str, mark: int) -> Row:
    return {"stage": stage, "code": code, "message": str(mark), "transient": code in TRANSIENT, "attempts": 1}


def wire_table(rows: list[Row], plan: Plan) -> pa.Table:
    """Wire rows with the columns of a plan's stages."""
    schema = wire.WIRE
    for stage in (stage for stage in plan.stages if stage.table == "tags"):
        schema = schema.append(pa.field(wire.rows_column(stage.id), wire.rows_type("tags")))
        schema = schema.append(pa.field(wire.error_column(stage.id), wire.FAILURE))
    return pa.Table.from_pylist(rows, schema)


def carry_out_task(world: World, store: Store, posted: Posted) -> None:
    """Do what Ray does for one task: read, compute, stage blocks, write receipts."""
    execution = world.execution(posted.plan, posted.attempt)
    computed = world.executions[execution.number][1]
    blocks: list[list[Row]] = []
    for recording in planned_recordings(store, posted.plan.recordings_file, posted.task):
        computed[recording.recording_id] = made = world.compute(recording, execution)
        blocks.append(wire_rows(recording, made, execution.number))
    sink = LakeSink(store, posted.plan, posted.attempt)
    for blocks_of_receipt in _receipts(blocks, world.chance("cut", execution) % 4):
        staged = [sink.stage(wire_table(block, posted.plan)) for block in blocks_of_receipt]
        rows = frozenset((r["recording_id"], r.get("segment_index")) for block in blocks_of_receipt for r in block)
        store.backend.about = Proof(execution, rows)
        sink.write(staged, None)


def _receipts(blocks: list[list[Row]], how: int) -> list[list[list[Row]]]:
    """Divide a task's rows into receipts of blocks: one block, one a recording; or two receipts, in either order."""
    rows = [row for block in blocks for row in block]
    if how == 0:
        return [[rows]]
    if how == 1:
        return [blocks]
    middle = (len(rows) + 1) // 2
    halves = [[part] for part in (rows[:middle], rows[middle:]) if part]
    return halves if how == 2 else halves[::-1]


class Bench:
    """A lake in a folder (a copy of one `like` it) or at `uri`, a world, and writers on it, where pipelines.run drives
    without Ray.

    `touched` holds the paths that were written or deleted since it was last emptied.
    """

    def __init__(
        self,
        world: World,
        *,
        torn: bool = False,
        like: "Bench | None" = None,
        uri: str | None = None,
        **sizes: int,
    ) -> None:
        self.world, self.torn = world, torn
        self.folder = tempfile.mkdtemp(prefix="phonolake-", dir=FAST)
        if like:
            shutil.copytree(like.folder, self.folder, dirs_exist_ok=True)
        self.store = Store(uri or self.folder)
        self.touched: list[str] = []
        self.writers: list[Writer] = []
        self._patches = pytest.MonkeyPatch()
        _without_ray(self._patches, world, random.Random(f"{world.seed} {bool(like)}"))
        for name, size in sizes.items():
            self._patches.setattr(pipelines.verdict, name, size)

    def close(self) -> None:
        """End every writer, and leave nothing behind."""
        for writer in self.writers:
            writer.vanish()
        self._patches.undo()
        shutil.rmtree(self.folder)

    def writer(self, name: str, act: Callable[[Store], Any]) -> Writer:
        """Add a writer, which stands still before its first call."""
        store, plain = Store(self.store.uri), self.store.backend
        writer = Writer(name, store, lambda: act(store))
        if isinstance(plain, S3):
            backend: SteppingDisk | SteppingS3 = SteppingS3(plain.root, {})
        else:
            backend = SteppingDisk(plain.root)
            backend.torn = self.torn
        backend.stop, backend.touched, backend.proofs = writer.stop, self.touched.append, self.world.proofs
        store.__dict__["backend"] = backend
        self.writers.append(writer)
        return writer

    def driver(self, command: str, *codes: str) -> Writer:
        """Add a driver that carries out a command with the recipe as it is now."""
        recipe = self.world.recipe
        acts = {
            "run": lambda _: pipelines.run.run(recipe),
            "retry": lambda _: pipelines.run.retry(recipe, codes),
            "abandon": lambda _: pipelines.run.abandon(recipe),
        }
        return self.writer(command, acts[command])

    def task(self, posted: Posted) -> Writer:
        """Add a worker that does a task (again)."""
        return self.writer("task", lambda store: carry_out_task(self.world, store, posted))

    def collector(self) -> Writer:
        """Add a garbage collector."""
        return self.writer("gc", collect_garbage)

    def verifier(self) -> Writer:
        """Add one who verifies the lake."""
        return self.writer("verify", verify)


def _in_place(function: Callable[..., Any]) -> SimpleNamespace:
    """Stand in for a Ray task: it is done when it is called."""
    return SimpleNamespace(remote=function)


def missing(store: Store, plan: Plan, state: State) -> list[str]:
    """The recordings of a plan that a survey calls missing."""
    ids = iter(read_table(store, plan.recordings_file, ["recording_id"])["recording_id"].to_pylist())
    units = [list(islice(ids, rows)) for rows in plan.unit_rows]
    return [
        recording
        for unit, recordings in enumerate(units)
        for row, recording in enumerate(recordings)
        if row not in state.done.get(unit, ())
    ]


def _without_ray(patches: pytest.MonkeyPatch, world: World, numbers: random.Random) -> None:
    """Let pipelines.run drive in the writer's thread: its store, the world's source and stages, and no cluster.

    What is unique comes of `numbers`, so that the same moves lead to the same lake.
    """

    def stages_of(recipe: Recipe) -> list[Stage]:
        named = [stage for stage in (STAGES[1], *LATER_STAGES) if stage.name in str(recipe.tags)]
        return cut_so(LONGEST - int(recipe.segments.max_seconds), [STAGES[0], *named])

    def surveyed(store: Store, plan: Plan, *, try_again: bool) -> State:
        proofs = list(world.proofs)
        state = survey(store, plan, try_again=try_again)
        plain = Store(store.uri)
        if not plain.exists(layout.seal_file(plan.corpus, plan.run)):  # then staging goes
            known = world.complete(plan.run, proofs)
            world.again += [
                recording
                for recording in missing(plain, plan, state)
                if recording in known
                and (any(known[recording].values()) or not (try_again and world.may_pass(plan.run, recording)))
            ]
        return state

    def attempt(recipe: Recipe, store: Store, plan: Plan, stages: list[Stage], shares: None, state: State) -> None:
        number = _claim(store, plan)
        posted = [Posted(plan, number, task) for task in pack_tasks(plan, state.done, 1.0)]
        world.posted += posted
        posted.sort(key=lambda one: world.chance("order", plan.run, number, one.task.first))
        stops = not world.healed and world.chance("stops", plan.run, number) % 3 == 0
        for one in posted[: len(posted) // 2] if stops else posted:
            carry_out_task(world, store, one)
        if stops:
            raise AttemptStopped

    connections = SimpleNamespace(connect=lambda config: _DATABASE.cursor())  # a new one takes longer than all the rest
    for module, name, stand_in in (
        (pipelines.run, "lake_store", lambda lake: _here.writer.store),
        (pipelines.run, "stages_of", stages_of),
        (pipelines.run, "list_source", lambda source, kept=None: world.listing()),
        (pipelines.run, "connect", lambda: None),
        (pipelines.run, "_shares", lambda recipe, stages: None),
        (pipelines.run, "survey", surveyed),
        (pipelines.run, "attempt", attempt),
        (pipelines.publish, "ray", SimpleNamespace(remote=lambda **_: _in_place, get=lambda told: told)),
        (pipelines.publish, "COPIERS", 1),  # so that a writer makes one call at a time
        (pipelines.scratch, "duckdb", connections),
        (pipelines.receipts, "READERS", 1),
        (pipelines.ledger, "READERS", 1),
        (pipelines.plan, "UNIT_ROWS", 1),
        (pipelines.tasks, "TASK_ROWS", 3),
        (pipelines.store, "FIRST_PAUSE_SECONDS", 0.0),
        (uuid, "uuid4", lambda: uuid.UUID(int=numbers.getrandbits(128), version=4)),
    ):
        patches.setattr(module, name, stand_in)
