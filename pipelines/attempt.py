"""An attempt: one Ray Data execution on behalf of a run, and how far the run is before and after it."""

import math
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data.exceptions import SystemException

from pipelines.accounting import ENDED, FAILED, OVER_BUDGET, attempt_record
from pipelines.errors import BudgetExceeded, PhonolakeError
from pipelines.events import ATTEMPT_ENDED, ATTEMPT_STARTED, Event, tell
from pipelines.graph import run_graph
from pipelines.meter import Key
from pipelines.nodes import measure_cluster
from pipelines.progress import ProgressDisplay, Tally
from pipelines.receipts import Evidence, collect, covered, worth_another_try
from pipelines.recipe import Recipe
from pipelines.runs import read_table, writer_id
from pipelines.shares import Shares
from pipelines.sink import LakeSink
from pipelines.stages import Stage
from pipelines.store import Store
from pipelines.tasks import Task, pack_tasks
from pipelines.watch import NodesLost
from schemas import layout, records
from schemas.records import Attempt, Plan
from workers.stores import ReadingStopped

TALLY_SECONDS: Final = 10.0
_MODEL_ERROR: Final = "ModelError: "
_CAUSED: Final = "\n\nThe above exception was the direct cause of the following exception:"


@dataclass(frozen=True, slots=True)
class State:
    """How far a run is.

    Attributes:
        evidence: its receipts.
        winners: which of them win, schema records.VERDICT.
        done: which rows of each unit of the plan are done.
        missing: how many recordings are not.
        failed: how many of those that are done failed as a whole.
    """

    evidence: Evidence
    winners: pa.Table
    done: dict[int, Collection[int]]
    missing: int
    failed: int


def survey(store: Store, plan: Plan, *, try_again: bool) -> State:
    """Compare the plan with the receipts; to `try_again`, count what failed for a passing reason as missing."""
    evidence = collect(store, plan)
    winners = evidence.winners()
    complete = covered(winners)
    failed = winners.filter(pc.equal(winners["outcome"], "failed"))["recording_id"]
    if try_again:
        again = worth_another_try(evidence, winners)
        complete, failed = (ids.filter(pc.invert(pc.is_in(ids, value_set=again))) for ids in (complete, failed))
    done: dict[int, Collection[int]] = {}
    if len(complete):
        ids = read_table(store, plan.recordings_file, ["recording_id"])["recording_id"]
        mask, start = pc.is_in(ids, value_set=complete).to_numpy(), 0
        for unit, rows in enumerate(plan.unit_rows):
            finished = mask[start : start + rows].nonzero()[0]
            done[unit] = range(rows) if len(finished) == rows else frozenset(finished.tolist())
            start += rows
    missing = plan.recordings - sum(len(rows) for rows in done.values())
    return State(evidence, winners, done, missing, len(failed))


def attempt(recipe: Recipe, store: Store, plan: Plan, stages: list[Stage], shares: Shares, state: State) -> None:
    """Execute what is missing once.

    Raises:
        BudgetExceeded: by the tally, which may count twice what was done twice; the receipts know.
        NodesLost: the shares no longer fit the cluster; another attempt needs others.
        PhonolakeError: anything else stopped it; what has receipts stays.
    """
    cluster, begun = measure_cluster(), time.monotonic()
    tasks: list[Task] = pack_tasks(plan, state.done, cluster.cpus)
    tally = Tally.remote(allowed_failures(recipe, plan) - state.failed)  # type: ignore[attr-defined]
    number, started_at = _claim(store, plan), datetime.now(UTC).isoformat(timespec="seconds")
    sink, outcome = LakeSink(store, plan, number, tally), FAILED
    tell(Event(ATTEMPT_STARTED, plan.corpus, plan.run, number, counts={"recordings": state.missing}))
    read = lambda: ray.get(tally.totals.remote(), timeout=TALLY_SECONDS)  # noqa: E731 - a display's view of the actor
    with ProgressDisplay(plan.recordings, plan.recordings - state.missing, read):
        try:
            run_graph(store, plan, recipe, stages, shares, tasks, sink)
            outcome = ENDED
        except Exception as error:  # Ray wraps what a worker raised in several ways
            reason = stopped(plan, error)
            outcome = OVER_BUDGET if isinstance(reason, BudgetExceeded) else FAILED
            raise reason from error
        finally:
            seconds = time.monotonic() - begun
            took = attempt_record(number, started_at, outcome, seconds, cluster, _measures(tally))
            tell(Event(ATTEMPT_ENDED, plan.corpus, plan.run, number, seconds, took.counts, outcome, took))


def _measures(tally: Any) -> dict[Key, float]:
    """Return what was measured of an attempt; nothing where the tally is gone."""
    with suppress(Exception):
        found: dict[Key, float] = ray.get(tally.measures.remote(), timeout=TALLY_SECONDS)
        return found
    return {}


def allowed_failures(recipe: Recipe, plan: Plan) -> int:
    """Return how many recordings may fail before the run is stopped.

    A few never stop one, so that a small night is not held up by one bad file; and a retry is of what failed anyway.
    """
    limits = recipe.limits
    if plan.retry:
        return plan.recordings
    few = limits.tolerated_failures if limits.max_failed_fraction else 0
    return max(few, math.floor(limits.max_failed_fraction * plan.recordings + 1e-9))


def stopped(plan: Plan, error: Exception) -> PhonolakeError:
    """Return an error of Ray as one of ours: with what it began with, and what to do."""
    chain = [one for one in _chain(error) if not isinstance(one, SystemException)]  # Ray Data's, which says nothing
    ours = next((one for one in chain if isinstance(one, PhonolakeError | ReadingStopped)), None)
    if isinstance(ours, BudgetExceeded | NodesLost):
        return ours
    said = (
        str(ours) if ours else _unloadable(chain) or _raised_first(chain) or f"{type(chain[-1]).__name__}: {chain[-1]}"
    )
    return PhonolakeError(f"run {plan.run} stopped: {said}; run the same command to resume")


def _unloadable(chain: Sequence[BaseException]) -> str | None:
    """Return what a model actor said that could not be made: Ray keeps the text of its error only."""
    text = next((str(one) for one in chain if _MODEL_ERROR in str(one)), "")
    return text.rpartition(_MODEL_ERROR)[2].partition("\n")[0] or None


def _raised_first(chain: Sequence[BaseException]) -> str | None:
    """Return what a step of the graph raised, of a full disk say: of that too, Ray keeps the text only.

    Of several errors that caused each other ours says most; without any, the first.
    """
    text = next((str(one) for one in chain if _CAUSED in str(one)), "")
    raised = [part.rstrip().rpartition("\n")[2] for part in text.split(_CAUSED)[:-1]]
    ours = [line.partition(": ")[2] for line in raised if line.startswith(f"{PhonolakeError.__module__}.")]
    if ours:
        return ours[-1]
    return re.sub(r"^(?:\w+\.)+", "", raised[0]) if raised else None  # its class without the module's name


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it, back to the first."""
    yield error
    cause = getattr(error, "cause", None) or error.__cause__
    if cause is not None and cause is not error:
        yield from _chain(cause)


def _claim(store: Store, plan: Plan) -> int:
    """Take the next free attempt number, create-once."""
    number = 1
    while True:
        record = Attempt(number, datetime.now(UTC).isoformat(timespec="seconds"), writer_id())
        if store.create(layout.attempt_file(plan.corpus, plan.run, number), records.to_json(record)):
            return number
        number += 1
