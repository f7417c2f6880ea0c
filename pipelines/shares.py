"""Which part of a cluster each pool and the CPU tasks hold, so that all of them can run at the same time.

Pools hold their share for the whole run. On a cluster with GPUs each pool gets whole GPUs while there are enough, a
fraction where there are not; without GPUs the pools divide the cores by how much work they do, and eight pools on two
cores run slowly instead of waiting for each other for ever. CPU tasks always keep a part of the cores.

What is divided are the nodes, and not their sum: every member of every pool surely finds a node that has room for it,
and the tasks find room beside them (pipelines.placement). Where that is not sure, members book less of a core than they
use: a booking that can be had is worth more than one that is true.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pipelines.errors import RecipeError
from pipelines.nodes import Cluster, Node
from pipelines.placement import all_find_room, sure_slots
from workers.models.kinds import KINDS

TASK_PART: Final = 0.25  # of the cores, for reading, decoding and writing beside CPU pools
CPU_STEPS: Final = 2  # reading and writing must find room at once, or a full queue between them never empties
ACTOR_THREADS: Final = 4  # beyond this one more actor serves better than one more thread
GPU_ACTOR_CPUS: Final = 0.5  # feeding a GPU takes little of a core
SMALLEST: Final = 0.01  # Ray knows hundredths of a core well enough
BOOKINGS: Final = (4.0, 3.0, 2.0, 1.5, 1.0, 0.75, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.02, SMALLEST)
"""What a member may book at most, in cores: the first that surely fits is taken."""


@dataclass(frozen=True, slots=True)
class PoolShare:
    """What one pool holds: so many actors, each with these CPUs, GPUs and threads."""

    actors: int
    cpus: float
    gpus: float
    threads: int


@dataclass(frozen=True, slots=True)
class Shares:
    """What the pools hold, in the order asked for, and what one CPU task asks for; `cluster` is what was divided."""

    pools: list[PoolShare]
    task_cpus: float
    cluster: Cluster | None = field(default=None, compare=False)


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
    on_cpus = gpus_per_actor == 0 or (gpus_per_actor is None and cluster.gpus < 1)
    found = _on_cpus(cluster, kinds, actors) if on_cpus else _on_gpus(cluster, kinds, actors, gpus_per_actor)
    return replace(found, cluster=cluster)


def still_fit(cluster: Cluster, shares: Shares) -> bool:
    """Return whether shares that were made for another cluster surely fit this one.

    They do where no node has left: what lies on nodes that joined only leaves more room on the others.
    """
    if not shares.pools or (shares.cluster and not Counter(shares.cluster.nodes) - Counter(cluster.nodes)):
        return True
    task = _hundredths(shares.task_cpus)
    return _members_fit(cluster, shares.pools) and _slots(cluster, shares.pools, task) >= CPU_STEPS


def _on_cpus(cluster: Cluster, kinds: Sequence[str], actors: int | None) -> Shares:
    budget = cluster.cpus * (1 - TASK_PART)
    work = sum(KINDS[kind].work for kind in kinds)
    shares = []  # of cores, and among how many actors
    for kind in kinds:
        cores = budget * KINDS[kind].work / work
        shares.append((cores, actors or max(1, math.floor(cores / min(ACTOR_THREADS, cluster.usual_cpus)))))
    pools: list[PoolShare] = []
    for most in BOOKINGS:
        pools = [
            PoolShare(count, _floor(min(cores / count, most)), 0.0, _threads(cores / count)) for cores, count in shares
        ]
        if fitting := _with_tasks(cluster, pools):
            return fitting
    raise _too_many_actors(cluster, pools)


def _on_gpus(cluster: Cluster, kinds: Sequence[str], actors: int | None, gpus_per_actor: float | None) -> Shares:
    fair = cluster.gpus / len(kinds)
    gpus = gpus_per_actor or (1.0 if fair >= 1 else _floor(1 / math.ceil(1 / fair)))
    seats = sum(_gpu_seats(node, gpus) for node in cluster.nodes)
    count = actors or max(1, seats // len(kinds))
    if count * len(kinds) > seats:
        raise RecipeError(
            f"pools: {len(kinds)} pools x {count} actors x {gpus:g} GPUs = {gpus * count * len(kinds):g} GPUs, but "
            f"the cluster has {cluster.gpus:g}, room for {seats} such actors ({cluster.text()}); lower pools.actors or "
            f"pools.gpus_per_actor, or leave them out"
        )
    while True:
        most = min(GPU_ACTOR_CPUS, cluster.cpus * (1 - TASK_PART) / (count * len(kinds)))
        pools: list[PoolShare] = []
        for booked in (most, *(one for one in BOOKINGS if one < most)):
            pools = [PoolShare(count, _floor(booked), gpus, 1)] * len(kinds)
            if fitting := _with_tasks(cluster, pools):
                return fitting
        if actors or count == 1:
            raise _too_many_actors(cluster, pools)
        count //= 2


def _gpu_seats(node: Node, gpus: float) -> int:
    """Return how many actors of so many GPUs a node has room for; a part of a GPU lies on one GPU."""
    if gpus >= 1:
        return math.floor(node.gpus / gpus + 1e-9)
    return math.floor(node.gpus) * math.floor(1 / gpus + 1e-9)


def _with_tasks(cluster: Cluster, pools: list[PoolShare]) -> Shares | None:
    """Return pools with the largest tasks that surely fit beside them; None where the pools themselves may not."""
    if not _members_fit(cluster, pools):
        return None
    free = cluster.cpus - sum(pool.actors * pool.cpus for pool in pools)
    for task in range(min(100, _hundredths(free / CPU_STEPS)), 0, -1):
        if _slots(cluster, pools, task) >= CPU_STEPS:
            return Shares(pools, task / 100)
    return None


def _members_fit(cluster: Cluster, pools: list[PoolShare]) -> bool:
    """Return whether all members surely find room; those that want GPUs are all alike, so they need only be counted."""
    sizes = _sizes(pools)
    if gpus := pools[0].gpus:
        size = max(sizes)
        seats = (min(_gpu_seats(node, gpus), _hundredths(node.cpus) // size) for node in cluster.nodes)
        return sum(sizes.values()) <= sum(seats)
    return all_find_room((_hundredths(node.cpus) for node in cluster.nodes), sizes)


def _slots(cluster: Cluster, pools: list[PoolShare], task: int) -> int:
    """Return how many tasks surely find room; members that want GPUs leave nodes without any to the tasks."""
    shared = [node for node in cluster.nodes if node.gpus or not pools[0].gpus]
    alone = [node for node in cluster.nodes if node not in shared]
    return sum(_hundredths(node.cpus) // task for node in alone) + sure_slots(
        [_hundredths(node.cpus) for node in shared], _sizes(pools), task
    )


def _sizes(pools: list[PoolShare]) -> Counter[int]:
    """Return how many members book how many hundredths of a core."""
    sizes: Counter[int] = Counter()
    for pool in pools:
        sizes[_hundredths(pool.cpus)] += pool.actors
    return sizes


def _too_many_actors(cluster: Cluster, pools: list[PoolShare]) -> RecipeError:
    """Return the refusal of more actors than the cores can be divided among."""
    actors, least = sum(pool.actors for pool in pools), min(pool.cpus for pool in pools)
    asked = sum(pool.actors * pool.cpus for pool in pools) + CPU_STEPS * SMALLEST
    return RecipeError(
        f"pools: {actors} actors x {least:g} CPUs and more, with {CPU_STEPS} CPU tasks x {SMALLEST:g}, = {asked:g} "
        f"CPUs, but the cluster has {cluster.cpus:g} ({cluster.text()}); lower pools.actors, or leave it out"
    )


def _threads(cores: float) -> int:
    return max(1, min(ACTOR_THREADS, math.ceil(cores)))


def _hundredths(cores: float) -> int:
    return math.floor(cores * 100 + 1e-6)


def _floor(value: float) -> float:
    return max(SMALLEST, _hundredths(value) / 100)
