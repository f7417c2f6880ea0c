"""The recipe's models: found, of a kind that fills the table, loaded in a worker, and alive."""

from typing import Any, Final

import ray

from pipelines.doctor.check import Check, Checks, failed, ok, tried
from pipelines.errors import PhonolakeError
from pipelines.nodes import measure_cluster
from pipelines.recipe import Recipe
from pipelines.recipe_sections import REFERENCE
from pipelines.shares import PoolShare, divide
from pipelines.stages import Stage, stages_of
from pipelines.warehouse import check_warehouse
from pipelines.worker_settings import pool_kinds, pool_spec, pools_of
from workers.actors import PoolMember, PoolSpec
from workers.weights import Checkpoint, ModelError, resolve

LOAD_SECONDS: Final = 600.0
DO: Final = "install what the message names, name another model, or take it out of the recipe"
TABLES: Final = ("embeddings", "tags", "transcripts")


def model_checks(recipe: Recipe, *, has_ray: bool) -> Checks:
    """Check every model; loading them takes a cluster."""
    found = [_resolved(name, language) for name, language in _models(recipe)]
    missing = [one for one in found if isinstance(one, Check)]
    yield from missing
    if missing:
        return
    try:
        stages = stages_of(recipe)
    except PhonolakeError as error:
        yield failed("recipe", error, "change what the message names")
        return
    yield ok("recipe", f"{len(stages)} stages: {', '.join(stage.id for stage in stages)}")
    if recipe.warehouse:
        yield tried("warehouse", lambda: _checked_warehouse(recipe), "mend the catalog's configuration on this machine")
    if has_ray and pools_of(stages):
        yield from _loaded(recipe, stages)


def _checked_warehouse(recipe: Recipe) -> Check:
    check_warehouse(recipe)
    return ok("warehouse", "its catalog is known here; it is not asked")


def _models(recipe: Recipe) -> list[tuple[str, str | None]]:
    """Return every model that the recipe names, and the language that it is asked for."""
    sections: list[Any] = [section for table in TABLES for section in getattr(recipe, table)]
    named = [
        (section.align_with if section.model == REFERENCE else section.model, getattr(section, "language", None))
        for section in sections
    ]
    return list(dict.fromkeys(named))


def _resolved(name: str, language: str | None) -> Checkpoint | Check:
    try:
        return resolve(name, language)
    except ModelError as error:
        return failed(f"model {name}", error, DO)
    except Exception as error:  # of whatever store it lies in
        return failed(f"model {name}", f"{type(error).__name__}: {error}", DO)


def _loaded(recipe: Recipe, stages: list[Stage]) -> Checks:
    pools = recipe.pools
    try:
        shares = divide(measure_cluster(), pool_kinds(stages), pools.actors, pools.gpus_per_actor)
    except PhonolakeError as error:
        yield failed("pools", error, "change pools in the recipe, or take a bigger cluster")
        return
    yield ok("pools", "; ".join(f"{share.actors} x {share.cpus:g} CPUs, {share.gpus:g} GPUs" for share in shares.pools))
    for pool, share in zip(pools_of(stages), shares.pools, strict=True):
        spec = pool_spec(pool, recipe, share.threads)
        yield tried(f"model {spec.model}", lambda spec=spec, share=share: check_model(spec, share), DO)  # type: ignore[misc]


def check_model(spec: PoolSpec, share: PoolShare) -> Check:
    """Load a model in a worker, as a run would, and let it hear a second of silence."""
    name = f"model {spec.model}"
    worker = ray.remote(_hear_silence).options(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0)
    heard = worker.remote(spec)
    try:
        rows = ray.get(heard, timeout=LOAD_SECONDS)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(heard, force=True)
        return failed(name, f"was not loaded in {LOAD_SECONDS:.0f} s", "see what else the cluster does: ray status")
    except ray.exceptions.RayTaskError as error:
        return failed(name, error.cause, DO)
    except ray.exceptions.RayError as error:
        return failed(name, f"its worker died: {error}", "see that there is memory for it on every node")
    gave = ", ".join(f"{count} {stage.partition('/')[0]}" for stage, count in rows.items())
    return ok(name, f"{spec.kind}, digest {spec.digest[:16]}; loaded in a worker, a second of silence gives {gave}")


def _hear_silence(spec: PoolSpec) -> dict[str, int]:
    return PoolMember(spec).hear_silence()
