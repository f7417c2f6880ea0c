"""A run, step by step: plan, attempt, verdict, publish, seal. Each step may be found done, by us or by another."""

import logging
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import ray

from pipelines.errors import BudgetExceeded, OpenRunConflict, PhonolakeError
from pipelines.graph import Task, pack_tasks, pool_kinds, run_graph
from pipelines.plan import Delta, find_delta, write_plan
from pipelines.progress import ProgressDisplay, Tally
from pipelines.publish import publish
from pipelines.receipts import Evidence, collect, covered, worth_another_try
from pipelines.recipe import Recipe
from pipelines.runs import Runs, find_runs, load_plan, load_seal, read_table, writer_id
from pipelines.seal import seal
from pipelines.shares import Shares, divide, measure_cluster
from pipelines.sink import LakeSink
from pipelines.sources import list_source
from pipelines.stages import Stage, stages_of
from pipelines.store import Store
from pipelines.verdict import decide, load_verdict
from schemas import layout, records
from schemas.records import Attempt, Plan, Seal, Verdict

LEAST_STORE_BYTES, MOST_STORE_BYTES = 512 << 20, 8 << 30
STORE_PART: Final = 0.025  # of the memory; Ray's own 0.3 would let each worker seem gigabytes big
TALLY_SECONDS: Final = 10.0
ATTEMPTS_AT_ONCE: Final = 3  # attempts of one command before it gives up


def plan_delta(recipe: Recipe, store: Store, runs: Runs, stages: list[Stage]) -> Delta:
    """List the source and subtract the ledger; writes nothing."""
    return find_delta(store, runs, recipe.corpus, list_source(recipe.source), stages)


def run(recipe: Recipe) -> Seal | None:
    """Carry the open run to its end, or plan and carry out a new one; None where there is nothing new.

    Raises:
        PhonolakeError: see pipelines.errors; the run stays resumable.
    """
    store = open_lake(recipe)
    stages = stages_of(recipe)
    runs = find_runs(store, recipe.corpus)
    delta = None if runs.open else plan_delta(recipe, store, runs, stages)
    if delta is not None and not delta.recordings.num_rows:
        return None
    connect()
    shares = _shares(recipe, stages)  # what cannot fit is refused before a plan binds anyone to it
    if delta is None:
        plan = load_plan(store, recipe.corpus, str(runs.open))
    else:
        if not runs.names:
            store.check_create_once(f"{layout.RUNS}/{recipe.corpus}/create-once-{writer_id()}")
        plan = write_plan(store, recipe, runs, delta, stages)
    _check_same(recipe, stages, plan, store)
    try:
        verdict = _reach_verdict(recipe, store, plan, stages, shares)
        return seal(store, plan, verdict, publish(store, plan, verdict))
    except FileNotFoundError as error:  # staging goes when another driver seals
        if store.exists(layout.seal_file(plan.corpus, plan.run)):
            return load_seal(store, plan.corpus, plan.run)
        raise PhonolakeError(f"run {plan.run}: a record or fragment is gone: {error}; run the same command") from error
    except ray.exceptions.RayError as error:
        raise _stopped(plan, error) from error


def _check_same(recipe: Recipe, stages: list[Stage], plan: Plan, store: Store) -> None:
    """Refuse to carry on a plan with another recipe, other weights or other code: its rows would not be one thing."""
    where = f"{store.url(layout.plan_file(plan.corpus, plan.run))}"
    if plan.recipe_fingerprint != recipe.fingerprint():
        raise OpenRunConflict(
            f"run {plan.run} of corpus {plan.corpus} is open and was planned with another recipe "
            f"({plan.recipe_fingerprint}, not {recipe.fingerprint()}); finish it with that recipe, kept in {where}"
        )
    changed = {stage.key for stage in stages} ^ {stage.key for stage in plan.stages}
    if changed:
        raise OpenRunConflict(
            f"run {plan.run} of corpus {plan.corpus} is open and was planned with other weights or code for "
            f"{', '.join(sorted({key.split('@')[0] for key in changed}))}; finish it with those, named in {where}"
        )


def _shares(recipe: Recipe, stages: list[Stage]) -> Shares:
    pools = recipe.pools
    return divide(measure_cluster(), pool_kinds(stages), pools.actors, pools.gpus_per_actor)


def open_lake(recipe: Recipe) -> Store:
    """Return the store of a recipe's lake."""
    return Store(recipe.lake.uri, recipe.lake.storage.options())


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray in this machine."""
    if ray.is_initialized():
        return
    for name in ("ray", "ray.data"):  # what matters of it is in our own messages
        logging.getLogger(name).setLevel(logging.ERROR)
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise PhonolakeError(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}") from error
    else:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its notes on our own actors go to the terminal
        with _no_stderr():  # where it would note that we set that
            ray.init(
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                object_store_memory=_object_store_bytes(),
            )


def _object_store_bytes() -> int:
    """Return how much shared memory blocks may fill: pages of it count as resident in every worker they passed."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(LEAST_STORE_BYTES, min(MOST_STORE_BYTES, int(memory * STORE_PART)))


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Drop what native code writes to standard error; exceptions still come through."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _reach_verdict(recipe: Recipe, store: Store, plan: Plan, stages: list[Stage], shares: Shares) -> Verdict:
    """Return the run's verdict: the one that stands, or the one that attempts lead to."""
    for attempt in range(ATTEMPTS_AT_ONCE + 1):
        if store.exists(layout.verdict_file(plan.corpus, plan.run)):  # ours of before, or another driver's
            return load_verdict(store, plan)
        state = survey(store, plan, try_again=attempt == 0)
        if not state.missing:
            _check_budget(recipe, plan, state.winners)
            return decide(store, plan, state.evidence, state.winners)
        if attempt < ATTEMPTS_AT_ONCE:
            _attempt(recipe, store, plan, stages, shares, state)
    raise PhonolakeError(
        f"run {plan.run}: {state.missing} of {plan.recordings} recordings have no receipt after "
        f"{ATTEMPTS_AT_ONCE} attempts; run the same command again, and report it if that does not help"
    )


@dataclass(frozen=True, slots=True)
class State:
    """How far a run is: its receipts, which of them win, and which rows of each unit are done."""

    evidence: Evidence
    winners: pa.Table
    done: dict[int, Collection[int]]
    missing: int


def survey(store: Store, plan: Plan, *, try_again: bool) -> State:
    """Compare the plan with the receipts; to `try_again`, count what failed for a passing reason as missing."""
    evidence = collect(store, plan)
    winners = evidence.winners()
    complete = covered(winners)
    if try_again:
        complete = complete.filter(pc.invert(pc.is_in(complete, value_set=worth_another_try(evidence, winners))))
    done: dict[int, Collection[int]] = {}
    if len(complete):
        ids = read_table(store, plan.recordings_file, ["recording_id"])["recording_id"]
        mask, start = pc.is_in(ids, value_set=complete).to_numpy(), 0
        for unit, rows in enumerate(plan.unit_rows):
            finished = mask[start : start + rows].nonzero()[0]
            done[unit] = range(rows) if len(finished) == rows else frozenset(finished.tolist())
            start += rows
    return State(evidence, winners, done, plan.recordings - sum(len(rows) for rows in done.values()))


def _attempt(recipe: Recipe, store: Store, plan: Plan, stages: list[Stage], shares: Shares, state: State) -> None:
    """Execute what is missing once."""
    tasks: list[Task] = pack_tasks(plan, state.done, measure_cluster().cpus)
    tally = Tally.remote()  # type: ignore[attr-defined]
    sink = LakeSink(store, plan, _claim_attempt(store, plan), tally)
    read = lambda: ray.get(tally.totals.remote(), timeout=TALLY_SECONDS)  # noqa: E731 - a display's view of the actor
    with ProgressDisplay(plan.recordings, plan.recordings - state.missing, read):
        try:
            run_graph(store, plan, recipe, stages, shares, tasks, sink)
        except Exception as error:  # Ray wraps what a worker raised in several ways
            raise _stopped(plan, error) from error


def _stopped(plan: Plan, error: Exception) -> PhonolakeError:
    return PhonolakeError(f"run {plan.run} stopped: {_cause(error)}; run the same command to resume")


def _cause(error: BaseException) -> str:
    """Return what a chain of Ray errors began with."""
    cause = getattr(error, "cause", None) or error.__cause__
    return _cause(cause) if cause is not None and cause is not error else f"{type(error).__name__}: {error}"


def _claim_attempt(store: Store, plan: Plan) -> int:
    """Take the next free attempt number, create-once."""
    attempt = 1
    while True:
        record = Attempt(attempt, datetime.now(UTC).isoformat(timespec="seconds"), writer_id())
        if store.create(layout.attempt_file(plan.corpus, plan.run, attempt), records.to_json(record)):
            return attempt
        attempt += 1


def _check_budget(recipe: Recipe, plan: Plan, winners: pa.Table) -> None:
    failed = pc.sum(pc.equal(winners["outcome"], "failed")).as_py() or 0
    allowed = recipe.limits.max_failed_fraction
    if failed > allowed * plan.recordings:
        raise BudgetExceeded(
            f"run {plan.run}: {failed} of {plan.recordings} recordings failed, more than limits.max_failed_fraction "
            f"{allowed:g} allows; nothing is published. Look at the source and run again, which tries again what a "
            f"store did not deliver; or publish all the same with --set limits.max_failed_fraction=1. What succeeded "
            f"is not computed twice"
        )
