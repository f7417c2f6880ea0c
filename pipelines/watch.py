"""The watch over the nodes of a cluster while an attempt works.

Pools are divided among the nodes that there are when an attempt starts. Nodes that join are used by CPU tasks. When so
many leave that the pools no longer surely fit, they might wait for each other for ever: then the attempt is ended, what
has receipts stays, and the next attempt divides what is left.
"""

import time
from typing import Any, Final

from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipelines.errors import PhonolakeError, RecipeError
from pipelines.nodes import Cluster, measure_cluster
from pipelines.shares import Shares, still_fit

LOOK_SECONDS: Final = 5.0
GRACE_SECONDS: Final = 20.0  # for a node that is replaced at once


class NodesLost(PhonolakeError):
    """Nodes left the cluster, and the pools do not fit what is left; the next attempt divides it anew."""


class NodeWatch(ExecutionCallback):
    """A callback of Ray Data's: it ends an execution whose pools no longer fit the cluster."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._looked = time.monotonic()
        self._unfit_since: float | None = None

    def on_execution_step(self, executor: Any) -> None:
        """Look now and then.

        Raises:
            NodesLost: the pools have not fitted for GRACE_SECONDS.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        cluster = _what_is_left()
        if still_fit(cluster, self._shares):
            self._unfit_since = None
            return
        self._unfit_since = self._unfit_since or now
        if now - self._unfit_since >= GRACE_SECONDS:
            raise NodesLost(_said(cluster, self._shares))


def _what_is_left() -> Cluster:
    try:
        return measure_cluster()
    except RecipeError:  # nothing is
        return Cluster(())


def _said(cluster: Cluster, shares: Shares) -> str:
    booked = sum(pool.actors * pool.cpus for pool in shares.pools)
    return (
        f"nodes left the cluster: {sum(pool.actors for pool in shares.pools)} actors that book {booked:g} CPUs, beside "
        f"tasks of {shares.task_cpus:g}, do not surely fit what is left ({cluster.text()})"
    )
