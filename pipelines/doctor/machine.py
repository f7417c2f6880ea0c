"""This machine: Python, packages, space, memory, GPUs, and whether the decoder's child lives."""

import os
import platform
import shutil
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pipelines.cluster import object_store_bytes
from pipelines.doctor.check import Check, Checks, failed, ok, tried, warning
from pipelines.version import CODE, PROJECT, version
from workers.weights import cache_root

GB: Final = 1e9
LEAST_DISK, LITTLE_DISK = 1 * GB, 10 * GB
LEAST_MEMORY, LITTLE_MEMORY = 2 * GB, 4 * GB
SHARED_MEMORY: Final = Path("/dev/shm")


def machine_checks() -> Checks:
    """Check what every run needs of the machine that it is started on."""
    yield ok("phonolake", f"{version()} at {CODE.parent}")
    yield tried("python", check_python, "use the Python that pyproject.toml asks for")
    yield tried("packages", check_packages, "in the clone: make demo, or pip install -c constraints.txt -e .")
    for name, folder in (("disk: temporary", Path(tempfile.gettempdir())), ("disk: models", cache_root())):
        yield check_disk(name, folder)
    yield tried("memory", check_memory, "look at what the system says of its memory")
    yield tried("shared memory", check_shared_memory, "mount /dev/shm")
    yield tried("gpus", check_gpus, "install the torch that pyproject.toml pins")


def check_python() -> Check:
    """Check the version of Python against what the project asks for."""
    wanted, version = _project()[0], platform.python_version()
    if wanted.contains(version, prereleases=True):
        return ok("python", f"{version} at {sys.executable}")
    return failed(
        "python", f"{version} at {sys.executable}, not {wanted}", "make the environment anew with that Python"
    )


def check_packages() -> Check:
    """Check the packages that every run needs, at the versions the project pins; extras are for who uses them."""
    requirements = [one for one in _project()[1] if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [problem for one in requirements if (problem := _problem(one))]
    if wrong:
        return failed("packages", "; ".join(wrong), "in the clone: pip install -c constraints.txt -e .")
    return ok("packages", f"{len(requirements)} as pinned")


def _problem(requirement: Requirement) -> str:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed (wanted {requirement.specifier or 'any'})"
    right = requirement.specifier.contains(version, prereleases=True)
    return "" if right else f"{requirement.name} is {version}, not {requirement.specifier}"


def _project() -> tuple[SpecifierSet, list[Requirement]]:
    """Return the Python and the packages that the project asks for: of the checkout, else of what is installed."""
    if PROJECT.is_file():
        project = tomllib.loads(PROJECT.read_text())["project"]
        return SpecifierSet(project["requires-python"]), [Requirement(one) for one in project["dependencies"]]
    python = metadata.metadata("phonolake")["Requires-Python"]
    return SpecifierSet(python), [Requirement(one) for one in metadata.requires("phonolake") or []]


def check_disk(name: str, folder: Path) -> Check:
    """Check the free space where a folder is or would be made."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    said, do = f"{free / GB:,.1f} GB free in {there}", "make room, or name another place: TMPDIR, PHONOLAKE_CACHE"
    if free < LEAST_DISK:
        return failed(name, said, do)
    return warning(name, said, do) if free < LITTLE_DISK else ok(name, said)


def check_memory() -> Check:
    """Check the memory that is left, of the machine and of the container."""
    free = min(memory_available(), container_left())
    said, do = (
        f"{free / GB:,.1f} GB free",
        "end other programs, or take a bigger machine: a small model takes 1 GB a worker",
    )
    if free < LEAST_MEMORY:
        return failed("memory", said, do)
    return warning("memory", said, do) if free < LITTLE_MEMORY else ok("memory", said)


def memory_available() -> float:
    """Return the bytes that the kernel would give."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) * 1024


def container_left() -> float:
    """Return the bytes left under a container's limit; no limit is infinite."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (folder / "memory.max").read_text().strip(), (folder / "memory.current").read_text()
    except OSError:
        return float("inf")
    return float("inf") if limit == "max" else float(limit) - float(used)


def check_shared_memory() -> Check:
    """Check that blocks between workers find room in shared memory: else Ray takes a disk for it."""
    if os.environ.get("RAY_ADDRESS"):
        return ok("shared memory", "the cluster's own affair")
    free, wanted = shutil.disk_usage(SHARED_MEMORY).free, object_store_bytes()
    said = f"{free / GB:,.1f} GB free in {SHARED_MEMORY}, {wanted / GB:,.1f} GB wanted"
    if free < wanted:
        return warning(
            "shared memory", said, "raise it (docker run --shm-size, an emptyDir of medium Memory): Ray is slow"
        )
    return ok("shared memory", said)


def check_gpus() -> Check:
    """Check that torch sees the GPUs that the driver has."""
    import torch

    has_driver = Path("/proc/driver/nvidia/version").exists()
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return ok("gpus", f"torch {torch.__version__} sees {', '.join(names)}")
    if has_driver:
        said = f"there is an NVIDIA driver, but torch {torch.__version__} sees no GPU"
        return warning("gpus", said, "see nvidia-smi, CUDA_VISIBLE_DEVICES, and whether the driver suits torch's CUDA")
    return ok("gpus", "none; models run on CPUs")
