"""Which part of a cluster each pool and the CPU tasks hold, so that all of them can run at the same time.

Pools hold their share for the whole run. On a cluster with GPUs each pool gets whole GPUs while there are enough, a
fraction where there are not; without GPUs the pools divide the cores by how much work they do, and eight pools on two
cores run slowly instead of waiting for each other for ever. CPU tasks always keep a part of the cores.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import ray

from pipelines.errors import RecipeError
from workers.models.kinds import KINDS

TASK_PART: Final = 0.25  # of the cores, for reading, decoding and writing beside CPU pools
CPU_STEPS: Final = 2  # reading and writing must find room at once, or a full queue between them never empties
ACTOR_THREADS: Final = 4  # beyond this one more actor serves better than one more thread
GPU_ACTOR_CPUS: Final = 0.5  # feeding a GPU takes little of a core
SMALLEST: Final = 0.01  # Ray knows hundredths of a core well enough


@dataclass(frozen=True, slots=True)
class Cluster:
    """What there is: CPU cores and GPUs in all, CPU cores of the smallest node, and how many nodes have any."""

    cpus: float
    gpus: float
    node_cpus: float
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class PoolShare:
    """What one pool holds: so many actors, each with these CPUs, GPUs and threads."""

    actors: int
    cpus: float
    gpus: float
    threads: int


@dataclass(frozen=True, slots=True)
class Shares:
    """What the pools hold, in the order asked for, and what one CPU task asks for."""

    pools: list[PoolShare]
    task_cpus: float


def measure_cluster() -> Cluster:
    """Ask Ray what the connected cluster has."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [node.get("CPU", 0.0) for node in nodes if node.get("CPU", 0.0) > 0]
    if not cpus:
        raise RecipeError("the cluster has no CPU to run on: start Ray with --num-cpus")
    return Cluster(sum(cpus), sum(node.get("GPU", 0.0) for node in nodes), min(cpus), len(cpus))


def divide(
    cluster: Cluster, kinds: Sequence[str], actors: int | None = None, gpus_per_actor: float | None = None
) -> Shares:
    """Divide a cluster among pools of these kinds and the CPU tasks.

    `actors` and `gpus_per_actor` are the recipe's wishes for each pool; None lets the cluster decide.

    Raises:
        RecipeError: the wishes do not fit; the message has the arithmetic.
    """
    if not kinds:
        return Shares([], 1.0)
    if gpus_per_actor == 0 or (gpus_per_actor is None and cluster.gpus == 0):
        shares = _on_cpus(cluster, kinds, actors)
    else:
        shares = _on_gpus(cluster, kinds, actors, gpus_per_actor)
    _check_cpus(cluster, shares)
    return shares


def _on_cpus(cluster: Cluster, kinds: Sequence[str], actors: int | None) -> Shares:
    budget = cluster.cpus * (1 - TASK_PART)
    work = sum(KINDS[kind].work for kind in kinds)
    pools = []
    for kind in kinds:
        cores = budget * KINDS[kind].work / work
        count = actors or max(1, math.floor(cores / min(ACTOR_THREADS, cluster.node_cpus)))
        pools.append(PoolShare(count, _floor(min(cores / count, cluster.node_cpus)), 0.0, _threads(cores / count)))
    return Shares(pools, _floor(min(1.0, cluster.cpus * TASK_PART / CPU_STEPS)))


def _on_gpus(cluster: Cluster, kinds: Sequence[str], actors: int | None, gpus_per_actor: float | None) -> Shares:
    fair = cluster.gpus / len(kinds)
    gpus = gpus_per_actor or (1.0 if fair >= 1 else _floor(1 / math.ceil(1 / fair)))
    seats = _gpu_seats(cluster, gpus)
    count = actors or max(1, seats // len(kinds))
    if count * len(kinds) > seats:
        raise RecipeError(
            f"pools: {len(kinds)} pools x {count} actors x {gpus:g} GPUs = {gpus * count * len(kinds):g} GPUs, but "
            f"the cluster has {cluster.gpus:g}, room for {seats} such actors; lower pools.actors or "
            f"pools.gpus_per_actor, or leave them out"
        )
    cpus = min(GPU_ACTOR_CPUS, cluster.cpus * (1 - TASK_PART) / (count * len(kinds)))
    task = min(1.0, (cluster.cpus - cpus * count * len(kinds)) / CPU_STEPS)
    return Shares([PoolShare(count, _floor(cpus), gpus, 1)] * len(kinds), _floor(task))


def _gpu_seats(cluster: Cluster, gpus: float) -> int:
    """Return how many actors of so many GPUs there is room for; a part of a GPU lies on one GPU."""
    if gpus >= 1:
        return math.floor(cluster.gpus / gpus + 1e-9)
    return math.floor(cluster.gpus) * math.floor(1 / gpus + 1e-9)


def _check_cpus(cluster: Cluster, shares: Shares) -> None:
    """Refuse more actors than the cores can be divided among: each holds a hundredth of a core at least."""
    asked = sum(pool.actors * pool.cpus for pool in shares.pools) + CPU_STEPS * shares.task_cpus
    if asked > cluster.cpus + 1e-9:
        actors = sum(pool.actors for pool in shares.pools)
        raise RecipeError(
            f"pools: {actors} actors x {min(pool.cpus for pool in shares.pools):g} CPUs and more, with {CPU_STEPS} "
            f"CPU tasks x {shares.task_cpus:g}, = {asked:g} CPUs, but the cluster has {cluster.cpus:g}; lower "
            f"pools.actors, or leave it out"
        )


def _threads(cores: float) -> int:
    return max(1, min(ACTOR_THREADS, math.ceil(cores)))


def _floor(value: float) -> float:
    return max(SMALLEST, math.floor(value * 100) / 100)
