"""Shares of a cluster: everything that must run at the same time fits at the same time."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import RecipeError
from pipelines.shares import ACTOR_THREADS, CPU_STEPS, SMALLEST, Cluster, Shares, divide

KINDS = st.lists(st.sampled_from(["whisper", "yamnet"]), max_size=8)


@st.composite
def clusters(draw) -> Cluster:
    nodes = draw(st.integers(1, 16))
    sizes = draw(st.lists(st.integers(1, 128 // nodes), min_size=nodes, max_size=nodes))
    return Cluster(float(sum(sizes)), float(draw(st.integers(0, 16))), float(min(sizes)))


def asked_cpus(shares: Shares) -> float:
    return sum(pool.actors * pool.cpus for pool in shares.pools) + CPU_STEPS * shares.task_cpus


def gpu_seats(cluster: Cluster, gpus: float) -> int:
    """How many actors of so many GPUs there is room for: a fraction must lie on one GPU."""
    if gpus >= 1:
        return math.floor(cluster.gpus / gpus + 1e-9)
    return math.floor(cluster.gpus) * math.floor(1 / gpus + 1e-9)


def assert_fits(cluster: Cluster, kinds: list[str], shares: Shares) -> None:
    assert len(shares.pools) == len(kinds)
    assert all(pool.actors >= 1 for pool in shares.pools)
    assert all(pool.cpus >= SMALLEST for pool in shares.pools)
    assert all(1 <= pool.threads <= ACTOR_THREADS for pool in shares.pools)
    assert all(pool.cpus <= cluster.node_cpus for pool in shares.pools)
    assert shares.task_cpus >= SMALLEST
    actors = sum(pool.actors for pool in shares.pools)
    # Where a core is divided among more than 100, each share is rounded up to a hundredth.
    assert asked_cpus(shares) <= cluster.cpus + SMALLEST * (actors if cluster.cpus < actors * SMALLEST * 2 else 0)
    on_gpus = [pool for pool in shares.pools if pool.gpus]
    for pool in on_gpus:
        assert sum(one.actors for one in on_gpus) <= gpu_seats(cluster, pool.gpus)


@given(clusters(), KINDS)
def test_what_the_cluster_decides_always_fits(cluster, kinds):
    shares = divide(cluster, kinds)
    if kinds:
        assert_fits(cluster, kinds, shares)
        assert all((pool.gpus > 0) == (cluster.gpus > 0) for pool in shares.pools)


@given(
    clusters(),
    KINDS.filter(bool),
    st.none() | st.integers(1, 300),
    st.none() | st.sampled_from([0, 0.01, 0.1, 0.25, 0.3, 0.5, 0.6, 1, 2, 5]),
)
def test_wishes_either_fit_or_are_refused(cluster, kinds, actors, gpus_per_actor):
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
def test_a_wish_for_gpus_is_refused_only_where_there_is_no_room(cluster, kinds, actors, gpus_per_actor):
    there_is_room = actors * len(kinds) <= gpu_seats(cluster, gpus_per_actor)
    if there_is_room and SMALLEST * (actors * len(kinds) + CPU_STEPS) <= cluster.cpus:
        assert_fits(cluster, kinds, divide(cluster, kinds, actors, gpus_per_actor))
    elif not there_is_room:
        with pytest.raises(RecipeError):
            divide(cluster, kinds, actors, gpus_per_actor)


def test_without_pools_a_task_has_a_whole_core():
    assert divide(Cluster(4, 0, 4), []) == Shares([], 1.0)


def test_eight_pools_on_two_cores_run_slowly_instead_of_waiting_for_each_other():
    shares = divide(Cluster(2, 0, 2), ["whisper", "yamnet"] * 4)
    assert [pool.actors for pool in shares.pools] == [1] * 8
    assert asked_cpus(shares) <= 2


def test_more_work_gets_more_cores():
    whisper, yamnet = divide(Cluster(32, 0, 32), ["whisper", "yamnet"]).pools
    assert whisper.actors * whisper.cpus > 4 * yamnet.actors * yamnet.cpus


def test_pools_get_whole_gpus_while_there_are_enough_and_fractions_where_there_are_not():
    cluster = Cluster(64, 4, 16)
    assert [(pool.actors, pool.gpus) for pool in divide(cluster, ["whisper"] * 2).pools] == [(2, 1.0)] * 2
    assert [(pool.actors, pool.gpus) for pool in divide(cluster, ["whisper"] * 4).pools] == [(1, 1.0)] * 4
    assert [(pool.actors, pool.gpus) for pool in divide(cluster, ["whisper"] * 8).pools] == [(1, 0.5)] * 8
    assert [(pool.actors, pool.gpus) for pool in divide(Cluster(8, 1, 8), ["whisper"] * 3).pools] == [(1, 0.33)] * 3


def test_a_wish_for_no_gpus_keeps_pools_on_the_cpus():
    shares = divide(Cluster(16, 4, 16), ["whisper"], gpus_per_actor=0)
    assert [pool.gpus for pool in shares.pools] == [0.0]


def test_a_fraction_of_a_gpu_lies_on_one_gpu():
    shares = divide(Cluster(16, 2, 16), ["yamnet"], gpus_per_actor=0.6)
    assert [pool.actors for pool in shares.pools] == [2]  # 3 x 0.6 = 1.8 GPUs, but no GPU holds two of them


@pytest.mark.parametrize(
    ("cluster", "kinds", "wishes", "arithmetic"),
    [
        (Cluster(8, 1, 8), ["whisper"] * 2, {"gpus_per_actor": 1}, "2 pools x 1 actors x 1 GPUs = 2 GPUs"),
        (Cluster(8, 2, 8), ["whisper"], {"actors": 3, "gpus_per_actor": 1}, "1 pools x 3 actors x 1 GPUs = 3 GPUs"),
        (Cluster(8, 0, 8), ["whisper"], {"gpus_per_actor": 0.5}, "1 pools x 1 actors x 0.5 GPUs = 0.5 GPUs"),
        (Cluster(8, 2, 8), ["whisper"], {"actors": 3}, "1 pools x 3 actors x 1 GPUs = 3 GPUs"),
        (Cluster(8, 2, 8), ["yamnet"], {"actors": 3, "gpus_per_actor": 0.6}, "1 pools x 3 actors x 0.6 GPUs"),
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
        (Cluster(2, 0, 2), {"actors": 1000}),
        (Cluster(2, 4, 2), {"actors": 1000, "gpus_per_actor": 0}),
        (Cluster(1, 16, 1), {"gpus_per_actor": 0.01}),
    ],
)
def test_more_actors_than_the_cores_can_be_divided_among_are_refused_with_the_arithmetic(cluster, wishes):
    with pytest.raises(RecipeError) as caught:
        divide(cluster, ["yamnet"], **wishes)
    assert f"the cluster has {cluster.cpus:g}" in str(caught.value)
    assert "x 0.01 CPUs" in str(caught.value)
    assert "pools.actors" in str(caught.value)
