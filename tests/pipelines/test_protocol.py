"""The protocol under writers that start, crash, resume, run late and meet at every store call.

A Hypothesis state machine drives two or more of them over one lake. After every store call the bytes of the lake are
compared with what they were and with a model in plain Python; at the end one fresh driver finishes everything, and the
lake must hold what a single undisturbed driver would have left.
"""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hand_made import CORPUS, STAGES, Row
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from writers import CUTS, LATER_STAGES, NATURES, AttemptStopped, Bench, Computed, Execution, World, Writer

from pipelines.errors import OpenRunConflict, StoreError
from pipelines.lake import open_lake
from pipelines.verify import Verification
from schemas import layout, records
from schemas.ids import recording_id
from schemas.records import Plan, Seal, Verdict

CHAOS = os.environ.get("PHONOLAKE_CHAOS") == "1"
BASE = STAGES[0].id
URIS = [f"/audio/{number}.wav" for number in range(6)]
LIVE_WRITERS = 4


class Wrong(AssertionError):
    """The lake is not as it must be."""


def must(holds: object, what: str) -> None:
    if not holds:
        raise Wrong(what)


@dataclass
class Standing:
    """What sealed runs did of a recording since it was cut into segments last, or could not be.

    Attributes:
        run: the run that cut it: of its segments and of what stands on them there is one row each since then.
        base: in which way, the key of the stage.
        failed: whether it could not.
        done: stages that were.
        tried: those, and what failed since with the whole recording.
        parts: (stage, segment_index) that failed and were not done later.
    """

    run: str
    base: str
    failed: bool = True
    tried: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    parts: set[tuple[str, int]] = field(default_factory=set)


class Watch:
    """What a lake must be at every moment, by its bytes under data/ and runs/; and a model of what its runs did.

    Attributes:
        seen: every object there was, with its bytes.
        rows: the published rows, by run, recording and table.
        plans, verdicts, seals: the records by run.
        standing: what counts of each recording, by its id.
        newest: the recording that the last sealed run met at a uri.
    """

    def __init__(self, bench: Bench) -> None:
        self._world, self._store, self._touched = bench.world, bench.store, bench.touched
        self.seen: dict[str, bytes] = {}
        self.rows: dict[str, dict[str, dict[str, list[Row]]]] = defaultdict(lambda: defaultdict(dict))
        self.plans: dict[str, Plan] = {}
        self.verdicts: dict[str, Verdict] = {}
        self.seals: dict[str, Seal] = {}
        self.standing: dict[str, Standing] = {}
        self.newest: dict[str, str] = {}
        self._homes: dict[tuple, str] = {}
        self._tables: dict[str, list[Row]] = {}

    def on(self, bench: Bench) -> "Watch":
        """Return a watch that knows the same, on a copy of this lake."""
        watch = Watch(bench)
        watch.seen, watch.plans, watch.verdicts = dict(self.seen), dict(self.plans), dict(self.verdicts)
        watch.seals, watch._homes, watch._tables = dict(self.seals), dict(self._homes), dict(self._tables)
        watch.standing, watch.newest = deepcopy(self.standing), dict(self.newest)
        for run, recordings in self.rows.items():
            for recording, tables in recordings.items():
                watch.rows[run][recording] = {table: list(rows) for table, rows in tables.items()}
        return watch

    def look(self) -> None:
        """Look at what was touched since the last look."""
        touched, self._touched[:] = list(self._touched), []
        for path in touched:
            self._look_at(path)
        must(not self._world.again, f"computed again although their receipts were there: {self._world.again}")

    def look_at_all(self) -> None:
        """Look at every object, whoever touched it."""
        self.look()
        found = {path for folder in (layout.DATA, layout.RUNS) for path in self._store.list(folder)}
        must(self.seen.keys() <= found, f"gone: {self.seen.keys() - found}")
        for path in sorted(found):
            self._look_at(path)

    def _look_at(self, path: str) -> None:
        if path.startswith(layout.STAGING):
            run = path.split("/")[2]
            must(run in self.seals or self._store.exists(path), f"{path} was deleted while its run was open")
            return
        try:
            data = self._store.read(path)
        except FileNotFoundError:
            must(self._is_orphan(path), f"{path} was deleted")
            self.seen.pop(path, None)
            return
        if path in self.seen:
            must(data == self.seen[path], f"{path} changed")
            return
        self.seen[path] = data
        for prefix, name, act in (
            (layout.DATA, ".parquet", self._published),
            (layout.RUNS, "/plan.json", self._planned),
            (layout.RUNS, "/verdict.json", self._decided),
            (layout.RUNS, "/seal.json", self._sealed),
        ):
            if path.startswith(prefix) and path.endswith(name):
                act(path, data)

    def _is_orphan(self, path: str) -> bool:
        """Whether an object is the Parquet file of a plan or verdict that was not the first of a run that is sealed."""
        run, name = path.split("/")[-2:]
        named = {self.plans[run].recordings_file, self.verdicts[run].rows_file} if run in self.seals else {path}
        return name.startswith(("plan-", "verdict-")) and path not in named

    def table(self, path: str) -> list[Row]:
        """The rows of a Parquet object that was seen."""
        if path not in self._tables:
            self._tables[path] = pq.read_table(pa.BufferReader(self.seen[path])).to_pylist()
        return self._tables[path]

    def _published(self, path: str, data: bytes) -> None:
        """Every row once: of a recording, segment and tag since the recording was cut last, of a failure in its run."""
        table, run = path.split("/")[1], path.split("/")[-1].split("-")[0]
        must(run in self.verdicts, f"{path} was published before there was a verdict")
        must(run not in self.seals, f"{path} was published after the seal")
        if table == "recordings":  # who finds a recording finds the rest of it
            others = {file.path for file in self.verdicts[run].files if file.table != table}
            must(others <= self.seen.keys(), f"{path} was published before {others - self.seen.keys()}")
        planned = {row["recording_id"]: row for row in self.table(self.plans[run].recordings_file)}
        for row in self.table(path):
            recording, segment = row["recording_id"], row.get("segment_id")
            must(row["run_id"] == run, f"{path} holds a row of run {row['run_id']}")
            since = run if BASE in planned[recording]["stages"] else self.standing[recording].run
            key = {
                "recordings": (since, recording),
                "segments": (since, segment),
                "tags": (since, segment, row.get("model"), row.get("label")),
                "failures": (run, recording, segment, row.get("stage")),
            }[table]
            other = self._homes.get((table, *key))
            must(other is None, f"{table} {key} is in {other} and again in {path}")
            self._homes[table, *key] = path
            self.rows[run][recording].setdefault(table, []).append(row)

    def _planned(self, path: str, data: bytes) -> None:
        """Runs are numbered densely, none begins before the last was sealed, and nothing is planned that is done."""
        plan = records.read_plan(data)
        must(plan.run == layout.run_name(len(self.plans) + 1), f"run {plan.run} after {list(self.plans)}")
        must(self.seals.keys() == self.plans.keys(), f"run {plan.run} was planned while another was open")
        self.plans[plan.run] = plan
        planned = self.table(plan.recordings_file)
        must(len(planned) == plan.recordings == len({row["recording_id"] for row in planned}), "planned twice")
        for row in planned:
            self._check_planned(plan, row)

    def _check_planned(self, plan: Plan, row: Row) -> None:
        """What stands is not done again, and of what does not stand everything is."""
        stages = [stage.id for stage in plan.stages]
        stands = self.stands(row["recording_id"], row["uri"], base_of(plan.stages))
        if not stands:
            must(row["stages"] == stages and not row["only"] and not plan.retry, f"{row} does not stand")
        elif row["only"]:
            wanted = {(one.split("#")[0], int(one.split("#")[1])) for one in row["only"]}
            must(plan.retry and wanted <= stands.parts, f"{row} again")
        elif plan.retry:
            must(row["stages"] and not stands.done & set(row["stages"]), f"{row} again")
        else:
            lacking = [stage for stage in stages if stage not in stands.tried]
            must(lacking and row["stages"] == lacking and not stands.failed, f"{row} again, it lacks {lacking}")

    def stands(self, recording: str, uri: str, base: str) -> Standing | None:
        """What was done of a recording, if it is what was met last at its uri, and was cut so last."""
        standing = self.standing.get(recording)
        return standing if standing and standing.base == base and self.newest[uri] == recording else None

    def _decided(self, path: str, data: bytes) -> None:
        self.verdicts[path.split("/")[2]] = records.read_verdict(data)

    def _sealed(self, path: str, data: bytes) -> None:
        """A sealed run is complete: of every recording what one attempt computed, and nothing else."""
        run = path.split("/")[2]
        seal, plan, verdict = records.read_seal(data), self.plans[run], self.verdicts[run]
        self.seals[run] = seal
        planned = {row["recording_id"]: row for row in self.table(plan.recordings_file)}
        complete = self._world.complete(run, verdict.receipts)
        chosen = self._chosen(verdict)
        must(chosen.keys() == complete.keys() & planned.keys(), f"the verdict of run {run} leaves out what is complete")
        returned = planned.keys() - chosen.keys()
        must(verdict.abandoned == bool(returned) and seal.returned == len(returned), f"run {run} is not complete")
        must(self.rows[run].keys() <= chosen.keys(), f"run {run} published what its verdict does not hold")
        for recording, attempt in chosen.items():
            must(attempt in complete[recording], f"{recording} is not complete in attempt {attempt}")
            must(complete[recording][attempt] or not any(complete[recording].values()), f"{recording} succeeded")
            self._book(planned[recording], plan)
            self._check_recording(planned[recording], Execution(0, run, attempt), verdict)
        self._check_books(seal, plan, chosen, planned)

    def _book(self, planned: Row, plan: Plan) -> None:
        """Note that a run met a recording and tried stages on it."""
        recording, stages = planned["recording_id"], set(planned["stages"])
        self.newest[planned["uri"]] = recording
        if BASE in stages:
            self.standing[recording] = Standing(plan.run, base_of(plan.stages))
        self.standing[recording].tried |= stages

    def _chosen(self, verdict: Verdict) -> dict[str, int]:
        """Which attempt counts for each recording."""
        chosen: dict[str, int] = {}
        for row in self.table(verdict.rows_file):
            attempt = int(verdict.receipts[row["receipt"]].split("/")[3])
            must(chosen.setdefault(row["recording_id"], attempt) == attempt, "a verdict mixes attempts")
        return chosen

    def _check_recording(self, planned: Row, of: Execution, verdict: Verdict) -> None:
        recording, rows = planned["recording_id"], self.rows[of.run].get(planned["recording_id"], {})
        for row in (row for table in rows.values() for row in table):
            execution = self._world.executions[mark(row)][0]
            same = (execution.run, execution.attempt) == (of.run, of.attempt)
            must(same, f"{recording} has rows of {execution}, but attempt {of.attempt} of run {of.run} counts")
        wholes = [row for row in rows.get("failures", ()) if row["segment_id"] is None]
        made = self._made(recording, of, verdict)
        must(len(wholes) == (not made[0].succeeded), f"{recording}: {len(wholes)} failures of the whole, {made[0]}")
        if wholes:
            must(rows.keys() == {"failures"} and len(rows["failures"]) == 1, f"{recording} failed and has rows")
            return
        new = BASE in planned["stages"]
        statuses = [row["status"] for row in rows.get("recordings", ())]
        must(statuses == [made[0].outcome] * new, f"{recording} is {statuses} in recordings")
        indices = sorted(row["segment_index"] for row in rows.get("segments", ()))
        must(indices == list(range(made[0].n_segments * new)), f"{recording} has segments {indices}")
        for index in range(made[0].n_segments):
            self._check_segment(planned, index, rows, made)
        stands = self.standing[recording]
        stands.done |= set(planned["stages"])
        stands.tried, stands.failed = set(stands.done), stands.failed and not new

    def _made(self, recording: str, of: Execution, verdict: Verdict) -> list[Computed]:
        """What the executions in evidence made of a recording: its successes, or else its failures."""
        proofs = [self._world.proofs[path] for path in verdict.receipts]
        numbers = {proof.execution.number for proof in proofs if recording in {row[0] for row in proof.rows}}
        found = [self._world.executions[number] for number in sorted(numbers)]
        made = [each[recording] for one, each in found if (one.run, one.attempt) == (of.run, of.attempt)]
        return [one for one in made if one.succeeded] or made

    def _check_segment(self, planned: Row, index: int, rows: dict[str, list[Row]], made: list[Computed]) -> None:
        """A segment has a tag or a failure of each stage it needs, and all its rows come of one execution."""
        recording = planned["recording_id"]
        segment = f"{recording}-{index:05d}"
        ours = {name: [row for row in rows.get(name, ()) if row.get("segment_id") == segment] for name in rows}
        needs = {stage for stage in planned["stages"] if stage != BASE}
        if planned["only"] is not None:
            needs = {stage for stage in needs if f"{stage}#{index}" in planned["only"]}
        tagged = {f"tags/{row['model']}" for row in ours.get("tags", ())}
        failed = {row["stage"] for row in ours.get("failures", ())}
        must(tagged | failed == needs and not tagged & failed, f"{segment} needs {needs}: {tagged}, {failed}")
        marks = {mark(row) for table in ours.values() for row in table}
        must(len(marks) <= 1, f"{segment} has rows of executions {marks}")
        fewest = min(len({stage for stage, at in one.failed if at == index}) for one in made)
        must(len(failed) <= max(fewest, 0), f"{segment} failed in {failed}, and better was there")
        self.standing[recording].parts -= {(stage, index) for stage in tagged}
        self.standing[recording].parts |= {(stage, index) for stage in failed}

    def _check_books(self, seal: Seal, plan: Plan, chosen: dict[str, int], planned: dict[str, Row]) -> None:
        """Seal and ledger say what lies there."""
        named = f"/{plan.run}-"
        files = {path: data for path, data in self.seen.items() if path.startswith(layout.DATA) and named in path}
        facts = {one.path: (one.size_bytes, one.sha256) for one in seal.files}
        must(facts == {path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in files.items()}, "files")
        must({one.path: one.rows for one in seal.files} == {path: len(self.table(path)) for path in files}, "rows")
        ledger = {row["recording_id"]: row for row in self.table(seal.ledger_file)}
        must(ledger.keys() == chosen.keys(), f"the ledger of run {plan.run} has other recordings than its verdict")
        must(seal.ok + seal.partial + seal.failed == len(chosen), f"seal {plan.run} counts wrongly")
        for recording, row in ledger.items():
            keys = {key.split("@")[0] for key in row["stages"]}
            must(keys == set(planned[recording]["stages"]), f"the ledger books {keys} of {recording}")
            found = self.rows[plan.run].get(recording, {}).get("failures", ())
            must((row["outcome"] == "failed") == any(one["segment_id"] is None for one in found), f"ledger: {row}")

    def check_end(self) -> None:
        """All that the source holds is in the lake as one driver would have left it; nothing lies in staging."""
        self.look_at_all()
        must(self.seals.keys() == self.plans.keys(), "a run is open")
        must(self._store.list(layout.STAGING) == {}, "staging was not emptied")
        wanted = {stage.id for stage in self._world.stages}
        current = _CURRENT_FAILURES.format(uris=", ".join(repr(uri) for uri in ["", *self._world.things]))
        failures = open_lake(self._store).sql(current).fetchall()
        for thing in self._world.things.values():
            recording = recording_id(CORPUS, thing.uri, thing.etag, 10, 1)
            told = [row[1:] for row in failures if row[0] == recording]
            if thing.nature == "silent":  # it has no rows that could tell that a stage was done later
                told = []
            broken = thing.nature == "broken"
            stands = self.stands(recording, thing.uri, base_of(self._world.stages))
            must(stands, f"{thing} does not stand as it is now: {self.standing.get(recording)}")
            must(stands.done == (set() if broken else wanted), f"{thing} has {stands.done}")
            failed = stands.parts
            hard = {(STAGES[1].id, 0)} if thing.nature == "hard" else set()
            must(failed == hard, f"{thing}: failed at last are {failed}")
            may = [(None, "fetch")] * broken + [(f"{recording}-{index:05d}", stage) for stage, index in hard]
            must(told == may, f"{thing}: current_failures has {told}")


def base_of(stages: Iterable[Any]) -> str:
    """The key of the stage that cuts segments."""
    return next(stage.key for stage in stages if stage.id == BASE)


_CURRENT_FAILURES = "SELECT recording_id, segment_id, stage FROM current_failures WHERE uri IN ({uris})"


def mark(row: Row) -> int:
    """The execution that computed a row, whichever table it is in."""
    for name in ("decoded_seconds", "speech_ratio", "score", "message"):
        if row.get(name) is not None:
            return int(row[name])
    raise Wrong(f"a row that nobody computed: {row}")


SIZES = st.sampled_from([1 << 28, 6_000, 1])
VANISHES, ENDS, MEETS = "vanishes", "ends", "meets"
MEETING = re.compile(
    r"create .*(plan|verdict|seal|attempts/\d+)\.json|create .*ledger|exists .*verdict|(create|copy|exists) data/"
    r"|delete |put .*/receipts/|list staging/|read .*/receipts/"
)
"""The calls before which a writer stands when it is about to meet another: there the order makes the difference."""

MOVES = [*[MEETS] * 12, 1, 1, 2, 3, 5, 8, 40, ENDS, ENDS, VANISHES, VANISHES]  # a byte says which, and whose it is
COMMANDS = [
    ("run",),
    ("run",),
    ("task",),
    ("task",),
    ("abandon",),
    ("gc",),
    ("verify",),
    ("retry",),
    ("retry", "model_failed"),
]
OTHERS = st.lists(st.sampled_from(COMMANDS), min_size=1, max_size=3)
GAINED = st.integers(0, len(LATER_STAGES))
PUT_BACK = st.sets(st.sampled_from(URIS), min_size=1, max_size=4)
CHANGES = st.dictionaries(st.sampled_from(URIS), st.sampled_from([*NATURES, None]), min_size=1, max_size=3)


class RunProtocol(RuleBasedStateMachine):
    """Writers on one lake; each rule is one thing that happens to them, to the source or to the recipe."""

    def new_lake(self) -> str | None:
        """Where the lake is to lie, if not in a folder of its own."""
        return None

    @initialize(
        seed=st.integers(0, 1000),
        torn=st.booleans(),
        gathered=SIZES,
        copied=SIZES,
        natures=st.lists(st.sampled_from(NATURES), min_size=3, max_size=6),
    )
    def a_lake_is_made(self, seed: int, torn: bool, gathered: int, copied: int, natures: list[str]) -> None:
        self.bench = Bench(World(seed), torn=torn, uri=self.new_lake(), TARGET_BYTES=gathered, GOOD_BYTES=copied)
        self.world, self.watch, self.is_wrong = self.bench.world, Watch(self.bench), False
        for uri, nature in zip(URIS, natures, strict=False):
            self.world.put(uri, nature)

    @property
    def living(self) -> list[Writer]:
        return [writer for writer in self.bench.writers if not writer.ended]

    def one_of(self, which: int) -> Writer:
        return self.living[which % len(self.living)]

    def go_on(self, writer: Writer, calls: int = 1) -> None:
        """Let a writer make calls, with a look after each; what it returns or raises must be in order."""
        try:
            for _ in range(calls):
                if not writer.ended:
                    writer.go_on()
                    self.watch.look()
                    self.check_ended(writer)
        except BaseException:
            self.is_wrong = True
            raise

    def check_ended(self, writer: Writer) -> None:
        allowed = StoreError if writer.name == "gc" else AttemptStopped | OpenRunConflict  # others may write there
        if writer.ended and writer.error and not isinstance(writer.error, allowed):
            raise Wrong(f"{writer.name} failed: {writer.error!r}") from writer.error
        if writer.ended and isinstance(writer.result, Verification):
            must(not writer.result.findings, f"verify finds {writer.result.findings}")
        if writer.ended and isinstance(writer.result, Seal):
            must(writer.result == self.watch.seals[writer.result.run], f"{writer.name} returned another seal")

    @rule(others=OTHERS, moves=st.binary(min_size=30, max_size=120))
    def writers_meet(self, others: list[tuple[str, ...]], moves: bytes) -> None:
        """Drivers and others start and move in some order; who vanishes has a successor."""
        for command in [*others, ("run",), ("run",)][: LIVE_WRITERS - len(self.living)]:
            self.start(*command)
        for byte in moves:
            if not self.living:
                return
            whose, which = byte % 12, byte // 12 % len(MOVES)
            self.move(self.living[whose % len(self.living)], MOVES[which])
            if MOVES[which] == VANISHES:
                self.start("run")

    @rule(changes=CHANGES, gains=st.booleans(), others=OTHERS, moves=st.binary(min_size=30, max_size=60))
    def writers_meet_when_things_change(
        self, changes: dict[str, str | None], gains: bool, others: list[tuple[str, ...]], moves: bytes
    ) -> None:
        """Objects come, change and go; the recipe may gain a stage."""
        for uri, nature in changes.items():
            if nature is None:
                self.world.things.pop(uri, None)
            else:
                self.world.put(uri, nature)
        self.world.gained = min(len(LATER_STAGES), self.world.gained + gains)
        self.writers_meet(others, moves)

    @rule(uris=PUT_BACK, gained=GAINED, others=OTHERS, moves=st.binary(min_size=30, max_size=60))
    def writers_meet_when_objects_are_put_back(
        self, uris: set[str], gained: int, others: list[tuple[str, ...]], moves: bytes
    ) -> None:
        """Objects change for a night, and are as they were, under the same etags; some that were gone come back.

        The recipe had every stage before, and may have fewer now.
        """
        self.world.gained = len(LATER_STAGES)
        self.a_night_passes()
        for uri in sorted(uris & self.world.things.keys()):
            self.world.put(uri, "sound")
        self.a_night_passes()
        for uri in sorted(uris):
            self.world.put_back(uri)
        self.world.gained = gained
        self.writers_meet(others, moves)

    @rule(
        cut=st.integers(0, CUTS - 1),
        gained=GAINED,
        goes_back=st.booleans(),
        tries_again=st.booleans(),
        others=OTHERS,
        moves=st.binary(min_size=30, max_size=60),
    )
    def writers_meet_when_the_recipe_cuts_otherwise(
        self, cut: int, gained: int, goes_back: bool, tries_again: bool, others: list[tuple[str, ...]], moves: bytes
    ) -> None:
        """Segments are cut in another way, or in another for a night and then as before; stages may go meanwhile."""
        before, self.world.gained = self.world.cut, len(LATER_STAGES)
        self.a_night_passes()
        if goes_back:
            self.world.cut = cut
            self.a_night_passes()
        self.world.cut, self.world.gained = before if goes_back else cut, gained
        if tries_again:  # before a run has met the new cut, on which nothing has failed
            self.repeat("retry", "unreadable", "fetch_failed", "model_failed", times=1)
        self.writers_meet(others, moves)

    def a_night_passes(self) -> None:
        """One driver comes to the end, while the others stand still."""
        self.repeat("run", times=1)

    def start(self, command: str, *codes: str) -> None:
        if command == "gc":
            self.bench.collector()
        elif command == "verify":
            self.bench.verifier()
        elif command == "task":
            for posted in self.world.posted[-1:] + self.world.posted[:-1][-1:]:
                self.bench.task(posted)
        else:
            self.bench.driver(command, *codes)

    def move(self, writer: Writer, where: str | int) -> None:
        """Let a writer go on, for some calls or up to a call; or vanish."""
        if where == VANISHES:
            writer.vanish()
        elif isinstance(where, int):
            self.go_on(writer, where)
        else:
            self.go_on(writer)
            while not writer.ended and (where == ENDS or not MEETING.match(writer.before)):
                self.go_on(writer)

    def teardown(self) -> None:
        try:
            if hasattr(self, "bench") and not self.is_wrong:
                self.finish_everything()
        finally:
            if hasattr(self, "bench"):
                self.bench.close()

    def finish_everything(self) -> None:
        """Half the drivers vanish, the others and a fresh one end; what may pass passes; late workers come last.

        The recipe has every stage in the end: those that it lost are wanted again.
        """
        late = [writer for writer in self.living if writer.name == "task"]
        drivers = [writer for writer in self.living if writer not in late]
        for writer in drivers[::2]:
            writer.vanish()
        for writer in (*drivers[1::2], self.bench.driver("run")):
            self.go_on(writer, 10_000)
        self.world.healed, self.world.gained = True, len(LATER_STAGES)
        self.repeat("run")
        if self.world.returned:  # while it was gone or another, it may have been looked for
            self.repeat("retry", "source_missing", "source_changed")
        if {thing.nature for thing in self.world.ever.values()} & {"flaky", "moody", "hard"}:
            self.repeat("retry")
            self.repeat("retry", "model_failed", times=1)
        for writer in (*late, self.bench.collector()):
            self.go_on(writer, 10_000)
        self.watch.check_end()

    def repeat(self, command: str, *codes: str, times: int = 12) -> None:
        """Let drivers carry out a command, one after the other, until nothing is left to do."""
        for _ in range(times):
            driver = self.bench.driver(command, *codes)
            self.go_on(driver, 10_000)
            if isinstance(driver.error, OpenRunConflict):
                self.go_on(self.bench.driver("abandon"), 10_000)
            elif driver.result is None:
                return
        must(times == 1, f"{command} finds something to do for ever")


def profile(examples: int, steps: int, **more: Any) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=examples, stateful_step_count=steps, suppress_health_check=checks, **more)


def test_whatever_writers_do_every_row_is_there_once():
    run_state_machine_as_test(RunProtocol, settings=profile(150 if CHAOS else 12, 6))
