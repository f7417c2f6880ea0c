"""Shares of a cluster: everything that must run at the same time finds its place at the same time, on some node."""

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import RecipeError
from pipelines.nodes import Cluster, Node
from pipelines.shares import ACTOR_THREADS, CPU_STEPS, SMALLEST, TASK_PART, PoolShare, Shares, divide, still_fit

KINDS = st.lists(st.sampled_from(["whisper", "yamnet", "openl3"]), max_size=8)


def alike(cpus: float, gpus: float = 0, count: int = 1) -> Cluster:
    """So many nodes, all of one size."""
    return Cluster((Node(float(cpus), float(gpus)),) * count)


@st.composite
def clusters(draw) -> Cluster:
    """Alike nodes, or any; with GPUs on some, or on none."""
    gpus = draw(st.sampled_from([st.just(0), st.integers(0, 8)]))
    node = st.builds(Node, st.integers(1, 64).map(float), gpus.map(float))
    if draw(st.booleans()):
        return Cluster((draw(node),) * draw(st.integers(1, 16)))
    return Cluster(tuple(draw(st.lists(node, min_size=1, max_size=8))))


def gpu_seats(cluster: Cluster, gpus: float) -> int:
    """How many actors of so many GPUs there is room for: a fraction must lie on one GPU, and all of it on one node."""
    if gpus >= 1:
        return sum(math.floor(node.gpus / gpus + 1e-9) for node in cluster.nodes)
    return math.floor(cluster.gpus) * math.floor(1 / gpus + 1e-9)


class Room:
    """What is free on a node: hundredths of cores, and of each GPU."""

    def __init__(self, node: Node) -> None:
        self.cpus, self.gpus = round(node.cpus * 100), [100] * int(node.gpus)

    def takes(self, cpus: float, gpus: float) -> bool:
        return self.cpus >= round(cpus * 100) and len(self._gpus(gpus)) == max(1, math.ceil(gpus)) * (gpus > 0)

    def take(self, cpus: float, gpus: float) -> None:
        for gpu in self._gpus(gpus):
            self.gpus[gpu] -= round(min(gpus, 1) * 100)
        self.cpus -= round(cpus * 100)

    def _gpus(self, gpus: float) -> list[int]:
        """The GPUs that would be taken: whole ones, or a part of the fullest."""
        able = [one for one in range(len(self.gpus)) if gpus and self.gpus[one] >= round(min(gpus, 1) * 100)]
        return sorted(able, key=lambda one: self.gpus[one])[: max(1, math.ceil(gpus))]


Packer = Callable[[list[Room]], Room]
PACKERS: dict[str, Packer] = {
    "packs": lambda rooms: min(rooms, key=lambda room: room.cpus),
    "spreads": lambda rooms: max(rooms, key=lambda room: room.cpus),
    "wherever": random.choice,
}
ORDERS: dict[str, Callable[[list[PoolShare]], list[PoolShare]]] = {
    "as asked": list,
    "small first": lambda members: sorted(members, key=lambda one: one.cpus),
    "large first": lambda members: sorted(members, key=lambda one: -one.cpus),
    "any": lambda members: random.sample(members, len(members)),
}


def assert_all_find_their_place(cluster: Cluster, shares: Shares) -> None:
    """Whoever comes first and whichever node is taken, every member is placed, and then the tasks find room."""
    members = [pool for pool in shares.pools for _ in range(pool.actors)]
    for order in ORDERS.values() if len(set(members)) > 1 else [list]:
        for packer in PACKERS.values():
            rooms = [Room(node) for node in cluster.nodes]
            for member in order(members):
                able = [room for room in rooms if room.takes(member.cpus, member.gpus)]
                assert able, (member, [(room.cpus, room.gpus) for room in rooms])
                packer(able).take(member.cpus, member.gpus)
            assert sum(room.cpus // round(shares.task_cpus * 100) for room in rooms) >= CPU_STEPS


def assert_fits(cluster: Cluster, kinds: list[str], shares: Shares) -> None:
    assert len(shares.pools) == len(kinds)
    assert all(pool.actors >= 1 for pool in shares.pools)
    assert all(pool.cpus >= SMALLEST for pool in shares.pools)
    assert all(1 <= pool.threads <= ACTOR_THREADS for pool in shares.pools)
    assert SMALLEST <= shares.task_cpus <= 1
    assert still_fit(cluster, shares)
    assert_all_find_their_place(cluster, shares)


@given(clusters(), KINDS)
def test_what_the_cluster_decides_always_finds_its_place_and_leaves_a_part_to_the_tasks(cluster, kinds):
    shares = divide(cluster, kinds)
    if kinds:
        assert_fits(cluster, kinds, shares)
        assert all((pool.gpus > 0) == (cluster.gpus > 0) for pool in shares.pools)
        booked = sum(pool.actors * max(pool.cpus, SMALLEST) for pool in shares.pools)
        assert cluster.cpus - booked >= cluster.cpus * TASK_PART - SMALLEST * len(kinds)


@given(
    clusters(),
    KINDS.filter(bool),
    st.none() | st.integers(1, 300),
    st.none() | st.sampled_from([0, 0.05, 0.1, 0.25, 0.3, 0.5, 0.6, 1, 2, 5]),
)
def test_wishes_either_find_their_place_or_are_refused(cluster, kinds, actors, gpus_per_actor):
    try:
        shares = divide(cluster, kinds, actors, gpus_per_actor)
    except RecipeError:
        assert actors is not None or gpus_per_actor  # only a wish is ever refused
        return
    assert_fits(cluster, kinds, shares)
    if actors is not None:
        assert all(pool.actors == actors for pool in shares.pools)
    if gpus_per_actor is not None:
        assert all(pool.gpus == gpus_per_actor for pool in shares.pools)


@given(clusters(), KINDS.filter(bool), st.integers(1, 50), st.sampled_from([0.25, 0.5, 1, 2]))
def test_a_wish_for_gpus_is_refused_where_there_is_no_room_and_granted_where_each_has_a_core(
    cluster, kinds, actors, gpus_per_actor
):
    wanted = actors * len(kinds)
    if wanted > gpu_seats(cluster, gpus_per_actor):
        with pytest.raises(RecipeError):
            divide(cluster, kinds, actors, gpus_per_actor)
    elif all(node.cpus >= gpu_seats(Cluster((node,)), gpus_per_actor) + 1 for node in cluster.nodes):
        assert_fits(cluster, kinds, divide(cluster, kinds, actors, gpus_per_actor))


@given(clusters(), KINDS.filter(bool), st.integers(0, 7))
def test_shares_that_still_fit_without_a_node_find_their_place_without_it(cluster, kinds, lost):
    shares = divide(cluster, kinds)
    left = Cluster(cluster.nodes[: lost % len(cluster.nodes)])
    if left.nodes and still_fit(left, shares):
        assert_all_find_their_place(left, shares)


def test_a_member_as_large_as_a_node_is_not_locked_out_by_small_ones_on_every_node():
    """By the sum 1.33 of 2 cores fit; but with a small one on each node first, the large one would wait for ever."""
    cluster = alike(1, count=2)
    shares = divide(cluster, ["whisper", "yamnet", "yamnet"])
    assert_fits(cluster, ["whisper", "yamnet", "yamnet"], shares)
    assert max(pool.cpus for pool in shares.pools) < 1


def test_what_no_longer_fits_when_a_node_is_gone_is_known():
    shares = divide(alike(1, count=3), ["yamnet"])
    assert still_fit(alike(1, count=3), shares)
    assert still_fit(alike(1, count=4), shares)
    assert not still_fit(alike(1, count=2), shares)


def test_a_small_head_does_not_make_the_actors_of_large_workers_small():
    workers = alike(16, count=4)
    assert divide(Cluster((Node(1.0), *workers.nodes)), ["whisper"]).pools == divide(workers, ["whisper"]).pools


def test_actors_that_want_two_gpus_count_the_nodes_that_have_two():
    cluster = alike(8, gpus=1, count=4)
    with pytest.raises(RecipeError, match="room for 0 such actors"):
        divide(cluster, ["whisper"], gpus_per_actor=2)


def test_gpus_on_a_node_with_few_cores_are_all_used():
    cluster = Cluster((Node(2.0, 8.0), Node(64.0)))
    (pool,) = divide(cluster, ["whisper"]).pools
    assert (pool.actors, pool.gpus) == (8, 1.0)
    assert 8 * pool.cpus <= 2


def test_without_pools_a_task_has_a_whole_core():
    assert divide(alike(4), []) == Shares([], 1.0)


def test_eight_pools_on_two_cores_run_slowly_instead_of_waiting_for_each_other():
    shares = divide(alike(2), ["whisper", "yamnet"] * 4)
    assert [pool.actors for pool in shares.pools] == [1] * 8
    assert_fits(alike(2), ["whisper", "yamnet"] * 4, shares)


def test_more_work_gets_more_cores():
    whisper, yamnet = divide(alike(32), ["whisper", "yamnet"]).pools
    assert whisper.actors * whisper.cpus > 4 * yamnet.actors * yamnet.cpus


def test_pools_get_whole_gpus_while_there_are_enough_and_fractions_where_there_are_not():
    cluster = alike(16, gpus=1, count=4)
    assert [(pool.actors, pool.gpus) for pool in divide(cluster, ["whisper"] * 2).pools] == [(2, 1.0)] * 2
    assert [(pool.actors, pool.gpus) for pool in divide(cluster, ["whisper"] * 4).pools] == [(1, 1.0)] * 4
    assert [(pool.actors, pool.gpus) for pool in divide(cluster, ["whisper"] * 8).pools] == [(1, 0.5)] * 8
    assert [(pool.actors, pool.gpus) for pool in divide(alike(8, gpus=1), ["whisper"] * 3).pools] == [(1, 0.33)] * 3


def test_a_wish_for_no_gpus_keeps_pools_on_the_cpus():
    shares = divide(alike(16, gpus=4), ["whisper"], gpus_per_actor=0)
    assert [pool.gpus for pool in shares.pools] == [0.0]


def test_a_fraction_of_a_gpu_lies_on_one_gpu():
    shares = divide(alike(16, gpus=2), ["yamnet"], gpus_per_actor=0.6)
    assert [pool.actors for pool in shares.pools] == [2]  # 3 x 0.6 = 1.8 GPUs, but no GPU holds two of them


@pytest.mark.parametrize(
    ("cluster", "kinds", "wishes", "arithmetic"),
    [
        (alike(8, gpus=1), ["whisper"] * 2, {"gpus_per_actor": 1}, "2 pools x 1 actors x 1 GPUs = 2 GPUs"),
        (alike(8, gpus=2), ["whisper"], {"actors": 3, "gpus_per_actor": 1}, "1 pools x 3 actors x 1 GPUs = 3 GPUs"),
        (alike(8), ["whisper"], {"gpus_per_actor": 0.5}, "1 pools x 1 actors x 0.5 GPUs = 0.5 GPUs"),
        (alike(8, gpus=2), ["whisper"], {"actors": 3}, "1 pools x 3 actors x 1 GPUs = 3 GPUs"),
        (alike(8, gpus=2), ["yamnet"], {"actors": 3, "gpus_per_actor": 0.6}, "1 pools x 3 actors x 0.6 GPUs"),
    ],
)
def test_a_wish_for_more_gpus_than_there_are_is_refused_with_the_arithmetic(cluster, kinds, wishes, arithmetic):
    with pytest.raises(RecipeError) as caught:
        divide(cluster, kinds, **wishes)
    assert arithmetic in str(caught.value)
    assert f"the cluster has {cluster.gpus:g}" in str(caught.value)
    assert "pools.actors" in str(caught.value)


@pytest.mark.parametrize(
    ("cluster", "wishes"),
    [
        (alike(2), {"actors": 1000}),
        (alike(2, gpus=4), {"actors": 1000, "gpus_per_actor": 0}),
        (alike(1, gpus=16), {"actors": 200, "gpus_per_actor": 0.01}),
    ],
)
def test_more_actors_than_the_cores_can_be_divided_among_are_refused_with_the_arithmetic(cluster, wishes):
    with pytest.raises(RecipeError) as caught:
        divide(cluster, ["yamnet"], **wishes)
    assert f"the cluster has {cluster.cpus:g}" in str(caught.value)
    assert "x 0.01 CPUs" in str(caught.value)
    assert "pools.actors" in str(caught.value)


@pytest.mark.parametrize("joins", [0.5, 4.0, 8.0, 16.0, 64.0])
def test_shares_fit_for_as_long_as_no_node_has_left(joins):
    three = Cluster((Node(4.0),) * 3)
    shares = divide(three, ["classifier", "openl3"])
    assert still_fit(Cluster((*three.nodes, Node(joins))), shares)
    assert not still_fit(Cluster((Node(joins),)), shares) or joins >= 8
