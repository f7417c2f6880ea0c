"""Ray: whether it starts or answers, runs a task, and sees the GPUs."""

import os
import platform
from typing import Final

import ray

from pipelines.cluster import connect
from pipelines.doctor.check import Check, failed, ok, warning
from pipelines.nodes import measure_cluster

TASK_SECONDS: Final = 120.0


def check_ray() -> Check:
    """Start or reach Ray, and run a task there."""
    where = os.environ.get("RAY_ADDRESS") or "this machine"
    connect()
    try:
        version = ray.get(ray.remote(platform.python_version).options(num_cpus=0.01).remote(), timeout=TASK_SECONDS)
    except ray.exceptions.GetTimeoutError:
        do = "see ray status: nodes that are gone, or all of them taken"
        return failed("ray", f"{where} runs no task within {TASK_SECONDS:.0f} s", do)
    found = measure_cluster()
    nodes = sum(node["Alive"] for node in ray.nodes())
    said = f"{ray.__version__} at {where}: {nodes} nodes, {found.cpus:g} CPUs, {found.gpus:g} GPUs, Python {version}"
    if not found.gpus and _gpus_here():
        return warning("ray", f"{said}; torch sees {_gpus_here()} GPUs here", "start its nodes with --num-gpus")
    return ok("ray", said)


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
