"""The watch over the nodes: it ends an attempt whose pools no longer fit, but not for a node that is replaced."""

import pytest

import pipelines.watch
from pipelines.nodes import Cluster, Node
from pipelines.shares import divide
from pipelines.watch import GRACE_SECONDS, LOOK_SECONDS, NodesLost, NodeWatch

THREE = Cluster((Node(1.0),) * 3)
TWO = Cluster((Node(1.0),) * 2)


class Scene:
    """A clock and a cluster that the watch looks at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.cluster = 0.0, THREE
        monkeypatch.setattr(pipelines.watch.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(pipelines.watch, "measure_cluster", lambda: self.cluster)
        self.watch = NodeWatch(divide(THREE, ["yamnet"]))

    def passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += LOOK_SECONDS / 2
            self.watch.on_execution_step(None)


def test_pools_that_do_not_fit_what_is_left_end_the_attempt_after_a_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.passes(GRACE_SECONDS * 3)
    scene.cluster = TWO
    scene.passes(GRACE_SECONDS - LOOK_SECONDS)
    with pytest.raises(NodesLost, match=r"2 actors that book 2 CPUs.*nodes: 2 of 1 CPUs"):
        scene.passes(LOOK_SECONDS * 3)


def test_a_node_that_is_replaced_in_time_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    for _ in range(5):
        scene.cluster = TWO
        scene.passes(GRACE_SECONDS - LOOK_SECONDS)
        scene.cluster = THREE
        scene.passes(LOOK_SECONDS * 2)


def test_nodes_that_join_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.cluster = Cluster((*THREE.nodes, Node(64.0, 8.0)))
    scene.passes(GRACE_SECONDS * 3)


def test_a_cluster_without_nodes_is_one_that_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.cluster = Cluster(())
    with pytest.raises(NodesLost, match="nodes: none"):
        scene.passes(GRACE_SECONDS * 2)
