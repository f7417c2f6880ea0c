"""Who may import whom, measured in a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITH_PYARROW = {"pyarrow", "numpy", "cython_runtime"}  # numpy comes with pyarrow; the last is what Cython adds

PROGRAM = """
import importlib, sys
before = set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))
"""


def imported_with(*modules: str) -> set[str]:
    """The top-level packages that importing these modules brings, our own and the standard library's left out."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = {name for name in done.stdout.split() if not name.startswith("_")}
    return found - sys.stdlib_module_names - {"schemas", "workers", "pipelines"}


def modules_of(package: str) -> list[str]:
    return [f"{package}.{path.stem}" for path in sorted((ROOT / package).glob("*.py")) if path.stem != "__init__"]


def test_schemas_imports_only_pyarrow_and_the_standard_library():
    modules = modules_of("schemas")
    assert "schemas.tables" in modules
    found = imported_with(*modules)
    assert "pyarrow" in found
    assert found - WITH_PYARROW == set()


def test_the_decoder_child_imports_no_torch_and_no_ray():
    found = imported_with("workers.decoder_child")
    assert "av" in found
    assert not found & {"torch", "ray", "transformers", "fsspec", "s3fs", "obstore", "botocore"}


def test_the_store_that_workers_write_to_comes_without_what_reads_recipes():
    assert not imported_with("pipelines.store") & {"pydantic", "yaml", "duckdb"}
