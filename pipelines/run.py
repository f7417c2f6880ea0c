"""A run, step by step: plan, attempt, verdict, publish, seal. Each step may be found done, by us or by another."""

import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final

import ray

from pipelines.attempt import State, allowed_failures, attempt, stopped, survey
from pipelines.cluster import connect
from pipelines.errors import BudgetExceeded, OpenRunConflict, PhonolakeError, RecipeError, StoreError
from pipelines.events import (
    BUDGET_EXCEEDED,
    FILES_PUBLISHED,
    NOTHING_NEW,
    RUN_PLANNED,
    RUN_RESUMED,
    RUN_SEALED,
    SOURCE_LISTED,
    VERDICT_REACHED,
    Begun,
    Event,
    Stopwatch,
    tell,
    tell_of,
)
from pipelines.nodes import measure_cluster
from pipelines.plan import Delta, find_delta, refuse_missing_texts, write_plan
from pipelines.publish import publish
from pipelines.receipts import commonest_failure
from pipelines.recipe import Recipe
from pipelines.retry import find_failed
from pipelines.runs import Runs, find_runs, load_plan, load_seal, writer_id
from pipelines.seal import seal
from pipelines.shards import KeptShards
from pipelines.shares import Shares, divide
from pipelines.sources import list_source
from pipelines.stages import Stage, stages_of
from pipelines.store import Store, lake_store
from pipelines.verdict import decide, load_verdict
from pipelines.watch import NodesLost
from pipelines.worker_settings import pool_kinds
from schemas import layout
from schemas.records import Plan, Seal, Verdict

logger = logging.getLogger(__name__)

ATTEMPTS_AT_ONCE: Final = 3  # attempts of one command before it gives up


def plan_delta(recipe: Recipe, store: Store, runs: Runs, stages: list[Stage], *, keep_shards: bool = False) -> Delta:
    """List the source and subtract the ledger; writes nothing, but for what is inside new shards where that is kept."""
    kept = KeptShards(store, recipe.corpus, keep_shards)
    clock = Stopwatch()
    listing = list_source(recipe.source, kept)
    refuse_missing_texts(recipe, listing)
    delta = find_delta(store, runs, recipe.corpus, listing, stages)
    counts = {name: getattr(delta, name) for name in ("listed", "new", "changed", "stage_only", "gone")}
    tell(Event(SOURCE_LISTED, recipe.corpus, seconds=clock.seconds, counts=counts))
    return delta


def run(recipe: Recipe) -> Seal | None:
    """Carry the open run to its end, or plan and carry out a new one; None where there is nothing new.

    Raises:
        PhonolakeError: see pipelines.errors; the run stays resumable.
    """
    store = lake_store(recipe.lake)
    stages = stages_of(recipe)
    runs = find_runs(store, recipe.corpus)
    if runs.open:
        return resume(recipe, store, load_plan(store, recipe.corpus, runs.open), stages)
    return carry_out(recipe, store, runs, stages, plan_delta(recipe, store, runs, stages, keep_shards=True))


def carry_out(
    recipe: Recipe, store: Store, runs: Runs, stages: list[Stage], delta: Delta, *, retry: bool = False
) -> Seal | None:
    """Plan what a delta holds and carry it out; None where it is empty."""
    if not delta.recordings.num_rows:
        tell(Event(NOTHING_NEW, recipe.corpus))
        return None
    _shares(recipe, stages)  # what cannot fit is refused before a plan binds anyone to it
    if not runs.names:
        store.check_create_once(f"{layout.RUNS}/{recipe.corpus}/create-once-{writer_id()}")
    clock = Stopwatch()
    plan = write_plan(store, recipe, runs, delta, stages, retry=retry)
    return resume(recipe, store, plan, stages, RUN_PLANNED, clock.seconds)


def resume(
    recipe: Recipe,
    store: Store,
    plan: Plan,
    stages: list[Stage],
    how: str = RUN_RESUMED,
    planning_seconds: float | None = None,
) -> Seal:
    """Carry a planned run to its end."""
    check_same(recipe, stages, plan, store)
    tell_of(plan, how, planning_seconds, Begun(plan, stages), recordings=plan.recordings, size_bytes=plan.size_bytes)
    shares = _shares(recipe, stages)
    return _or_standing_seal(
        store, plan, lambda: finish(store, plan, _reach_verdict(recipe, store, plan, stages, shares))
    )


def _or_standing_seal(store: Store, plan: Plan, end: Callable[[], Seal]) -> Seal:
    """Bring a run to its end; staging goes when another driver seals, and then its seal is ours."""
    try:
        return end()
    except (FileNotFoundError, PhonolakeError) as error:
        with suppress(StoreError):  # a store that does not answer says no more than the error
            if store.exists(layout.seal_file(plan.corpus, plan.run)):
                return _told(plan, load_seal(store, plan.corpus, plan.run))
        if isinstance(error, PhonolakeError):
            raise
        raise PhonolakeError(f"run {plan.run}: a record or fragment is gone: {error}; run the same command") from error


def finish(store: Store, plan: Plan, verdict: Verdict) -> Seal:
    """Publish and seal what a verdict says."""
    try:
        clock = Stopwatch()
        files = publish(store, plan, verdict)
        size_bytes = sum(file.size_bytes for file in files)
        tell_of(plan, FILES_PUBLISHED, clock.seconds, files=len(files), size_bytes=size_bytes)
        clock = Stopwatch()
        return _told(plan, seal(store, plan, verdict, files), clock.seconds)
    except ray.exceptions.RayError as error:
        if isinstance(cause := getattr(error, "cause", None), FileNotFoundError):
            raise cause from error
        raise stopped(plan, error) from error


def _told(plan: Plan, sealed: Seal, seconds: float | None = None) -> Seal:
    """Tell that a run has ended, whoever sealed it; return its seal."""
    counts = {name: getattr(sealed, name) for name in ("recordings", "ok", "partial", "failed", "returned")}
    tell_of(plan, RUN_SEALED, seconds, sealed, **counts, audio_seconds=round(sealed.audio_seconds, 3))
    return sealed


def retry(recipe: Recipe, codes: Collection[str] = ()) -> Seal | None:
    """Plan again what failed and carry it out; None where nothing did. Without `codes`, what may pass.

    Raises:
        OpenRunConflict: a run is open; it tries again by itself.
    """
    store = lake_store(recipe.lake)
    stages = stages_of(recipe)
    runs = find_runs(store, recipe.corpus)
    if runs.open:
        raise OpenRunConflict(
            f"run {runs.open} of corpus {recipe.corpus} is open; finish it first with phonolake run, which tries again "
            f"what may pass"
        )
    listing = list_source(recipe.source, KeptShards(store, recipe.corpus, adds=False))
    failed = find_failed(store, runs, listing, stages, codes)
    return carry_out(recipe, store, runs, stages, failed, retry=True)


def abandon(recipe: Recipe) -> Seal | None:
    """Close the open run of a recipe's corpus, whatever recipe it has; None where there is none.

    What has receipts is published; the rest returns to the next plan. Where a verdict stands already, it is carried
    out as it is.
    """
    store = lake_store(recipe.lake)
    runs = find_runs(store, recipe.corpus)
    if runs.open is None:
        return None
    plan = load_plan(store, recipe.corpus, runs.open)
    connect()
    tell_of(plan, RUN_RESUMED, None, Begun(plan, []), recordings=plan.recordings, size_bytes=plan.size_bytes)
    return _or_standing_seal(store, plan, lambda: finish(store, plan, _verdict_on_what_is_done(store, plan)))


def _verdict_on_what_is_done(store: Store, plan: Plan) -> Verdict:
    if store.exists(layout.verdict_file(plan.corpus, plan.run)):
        return load_verdict(store, plan)
    clock = Stopwatch()
    state = survey(store, plan, try_again=False)
    return _decided(plan, state, clock, decide(store, plan, state.evidence, state.winners, abandoned=state.missing > 0))


def _decided(plan: Plan, state: State, clock: Stopwatch, verdict: Verdict) -> Verdict:
    """Tell that a verdict stands; return it."""
    counts = {"recordings": plan.recordings - state.missing, "failed": state.failed, "files": len(verdict.files)}
    tell_of(plan, VERDICT_REACHED, clock.seconds, **counts)
    return verdict


def check_same(recipe: Recipe, stages: list[Stage], plan: Plan, store: Store) -> None:
    """Refuse to carry on a plan with another recipe, other weights or other code: its rows would not be one thing."""
    if (difference := what_differs(recipe, stages, plan)) is not None:
        raise OpenRunConflict(
            f"run {plan.run} of corpus {plan.corpus} is open and was planned with {difference}, as "
            f"{store.url(layout.plan_file(plan.corpus, plan.run))} says; finish it with that, or close it with "
            f"phonolake abandon, which publishes what is done"
        )


def what_differs(recipe: Recipe, stages: list[Stage], plan: Plan) -> str | None:
    """Say why a plan cannot be carried on with a recipe and its stages; None where it can."""
    if plan.recipe_fingerprint != recipe.fingerprint():
        return f"another recipe ({plan.recipe_fingerprint}, not {recipe.fingerprint()})"
    changed = {stage.key for stage in stages} ^ {stage.key for stage in plan.stages}
    if changed:
        return f"other weights or code for {', '.join(sorted({key.split('@')[0] for key in changed}))}"
    return None


def _shares(recipe: Recipe, stages: list[Stage]) -> Shares:
    connect()
    pools = recipe.pools
    return divide(measure_cluster(), pool_kinds(stages), pools.actors, pools.gpus_per_actor)


def _reach_verdict(recipe: Recipe, store: Store, plan: Plan, stages: list[Stage], shares: Shares) -> Verdict:
    """Return the run's verdict: the one that stands, or the one that attempts lead to.

    An attempt that nodes left does not count where it got somewhere, and what stores did not deliver is tried again
    until an attempt has run to its end.
    """
    counted, ended, any_ended, missing = 0, False, False, None
    while True:
        if store.exists(layout.verdict_file(plan.corpus, plan.run)):  # ours of before, or another driver's
            return load_verdict(store, plan)
        clock = Stopwatch()
        state = survey(store, plan, try_again=not any_ended)
        _check_budget(recipe, store, plan, state)
        if not state.missing:
            return _decided(plan, state, clock, decide(store, plan, state.evidence, state.winners))
        if missing is not None:
            counted += ended or state.missing >= missing
            if counted == ATTEMPTS_AT_ONCE:
                break
            shares = _shares_of_what_is_left(recipe, plan, stages)
        missing = state.missing
        ended = _attempt_within_budget(recipe, store, plan, stages, shares, state)
        any_ended |= ended
    raise PhonolakeError(
        f"run {plan.run}: {state.missing} of {plan.recordings} recordings have no receipt after "
        f"{ATTEMPTS_AT_ONCE} attempts; run the same command again, and report it if that does not help"
    )


def _shares_of_what_is_left(recipe: Recipe, plan: Plan, stages: list[Stage]) -> Shares:
    """Divide the cluster anew, for nodes may have come and gone; the recipe is not to blame where too many have."""
    try:
        return _shares(recipe, stages)
    except RecipeError as error:
        raise PhonolakeError(
            f"run {plan.run}: nodes left the cluster, and what is left does not do: {error}; run the same command to "
            f"resume once they are back"
        ) from error


def _attempt_within_budget(
    recipe: Recipe, store: Store, plan: Plan, stages: list[Stage], shares: Shares, state: State
) -> bool:
    """Make one attempt, and return whether it ran to its end, or nodes left it.

    That it ended over budget is checked against the receipts afterwards, as is what is missing.

    It may fail because another driver has decided meanwhile and has taken staging away: then that verdict stands.
    """
    try:
        attempt(recipe, store, plan, stages, shares, state)
    except BudgetExceeded:
        return True
    except NodesLost as error:
        logger.warning("run %s: %s; dividing it anew", plan.run, error)
        return False
    except PhonolakeError:
        with suppress(StoreError):
            if store.exists(layout.verdict_file(plan.corpus, plan.run)):
                return True
        raise
    return True


def _check_budget(recipe: Recipe, store: Store, plan: Plan, state: State) -> None:
    if state.failed > allowed_failures(recipe, plan):
        tell_of(plan, BUDGET_EXCEEDED, recordings=plan.recordings, failed=state.failed)
        raise BudgetExceeded(
            f"run {plan.run}: {state.failed} of {plan.recordings} recordings failed, more than "
            f"limits.max_failed_fraction {recipe.limits.max_failed_fraction:g} allows; nothing is published. Most "
            f"often {commonest_failure(store, state.evidence)}. Run again, which tries again what a store did not "
            f"deliver, or carry on all the same with --set limits.max_failed_fraction=1; what succeeded is not "
            f"computed twice. To change the recipe (source.exclude leaves files out), close the run with phonolake "
            f"abandon first"
        )
