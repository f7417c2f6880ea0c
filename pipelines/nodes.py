"""The nodes of a cluster, as Ray counts them."""

from dataclasses import dataclass

import ray

from pipelines.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its CPU cores and its GPUs."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes that have CPU cores; where there are none, nothing of ours can run, whatever GPUs there are."""

    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> float:
        """CPU cores in all."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs in all."""
        return sum(node.gpus for node in self.nodes)

    @property
    def usual_cpus(self) -> float:
        """CPU cores of the node on which the median core is: a small head among large workers does not count."""
        sizes, passed = sorted(node.cpus for node in self.nodes), 0.0
        for size in sizes:
            passed += size
            if passed >= self.cpus / 2:
                return size
        return sizes[-1]

    def text(self) -> str:
        """Return the nodes in words, equal ones together: `nodes: 3 of 4 CPUs, 1 of 8 CPUs and 2 GPUs`."""
        counts = {
            node: self.nodes.count(node) for node in sorted(set(self.nodes), key=lambda one: (one.cpus, one.gpus))
        }
        parts = [
            f"{count} of {node.cpus:g} CPUs" + (f" and {node.gpus:g} GPUs" if node.gpus else "")
            for node, count in counts.items()
        ]
        return "nodes: " + (", ".join(parts) or "none")


def measure_cluster() -> Cluster:
    """Ask Ray which nodes the connected cluster has.

    Raises:
        RecipeError: none of them has a CPU.
    """
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [Node(found.get("CPU", 0.0), found.get("GPU", 0.0)) for found in alive if found.get("CPU", 0.0) > 0]
    if not nodes:
        raise RecipeError("the cluster has no CPU to run on: start Ray with --num-cpus, or let it have a worker node")
    return Cluster(tuple(nodes))
