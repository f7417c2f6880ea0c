import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from dockerfile_parse import DockerfileParser
from manifests import DEPLOY, ROOT
from packaging.specifiers import SpecifierSet
from ray.runtime_env import RuntimeEnv

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """The instructions of each stage, FROM included, by the stage's name."""
    folder = tmp_path_factory.mktemp("docker")  # the parser wants to own the file
    shutil.copy(DEPLOY / "Dockerfile", folder / "Dockerfile")
    found: dict[str, list[dict[str, str]]] = {}
    name = ""
    for one in DockerfileParser(str(folder)).structure:
        if one["instruction"] == "FROM":
            name = one["value"].split()[-1]
            found[name] = []
        if name and one["instruction"] != "COMMENT":
            found[name].append(one)
    return found


def values(stage: list[dict[str, str]], instruction: str) -> list[str]:
    return [one["value"] for one in stage if one["instruction"] == instruction]


def test_every_base_is_a_full_version_of_a_python_that_we_support(stages) -> None:
    version = re.search(r"^ARG PYTHON=(\S+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert version
    assert re.fullmatch(r"\d+\.\d+\.\d+", version[1])
    assert version[1] in SpecifierSet(PROJECT["requires-python"])
    for name, stage in stages.items():
        base = values(stage, "FROM")[0].split()[0]
        assert base == "python:${PYTHON}-slim-bookworm" or base in stages, name


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_a_target_runs_as_the_fixed_user_and_takes_over_the_environment_alone(stages, target: str) -> None:
    stage = stages[target]
    assert [one["instruction"] for one in stage][-2:] == ["USER", "CMD"]
    assert values(stage, "USER") == ["1000:1000"]
    assert "--uid 1000 " in " ".join(values(stages["runtime"], "RUN"))
    assert values(stage, "COPY") == [f"--from={target}-builder /opt/venv /opt/venv"]
    assert values(stage, "FROM") == [f"runtime AS {target}"]
    assert not values(stage, "RUN")


def test_no_build_tool_is_left_in(stages) -> None:
    [run] = values(stages["runtime"], "RUN")
    installed = re.findall(r"apt-get install --yes --no-install-recommends ([^&]+)&&", run)
    assert [one.split() for one in installed] == [["openssh-client", "rsync", "wget"]]
    assert "python -m pip uninstall --yes pip setuptools wheel" in run
    assert "python -m venv --without-pip /opt/venv" in " ".join(values(stages["builder"], "RUN"))


def test_everything_is_installed_from_the_pins_with_extras_that_exist(stages) -> None:
    for target in ("cpu", "gpu"):
        [install] = values(stages[f"{target}-builder"], "RUN")
        assert "--constraint constraints.txt" in install
    [extras] = [value.partition("=")[2] for value in values(stages["builder"], "ARG")]
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys() - {"dev"}
    assert {"cluster", "iceberg"} <= set(extras.split(","))  # Ray's dashboard and probes; the warehouse of a recipe


def test_what_is_copied_exists_is_sent_to_the_builder_and_is_all_that_the_project_is_built_from(stages) -> None:
    copied = [word for value in values(stages["builder"], "COPY") for word in value.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == sent
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*") for name in packages} <= set(copied)
    assert {PROJECT["readme"], *PROJECT["license-files"]} <= set(copied)


def test_variables_are_ones_that_the_code_or_its_libraries_read(stages) -> None:
    ours = " ".join(file.read_text() for name in ("workers", "pipelines") for file in (ROOT / name).rglob("*.py"))
    from huggingface_hub import constants
    from ray._private.authentication.authentication_token_setup import AUTH_MODE_ENV_VAR

    theirs = Path(constants.__file__).read_text()
    runtime = dict(word.split("=", 1) for value in values(stages["runtime"], "ENV") for word in value.split())
    submitted = yaml.safe_load((DEPLOY / "runtime_env.yaml").read_text())["env_vars"]
    assert '"PHONOLAKE_CACHE"' in ours
    assert '"HF_HOME"' in theirs
    assert runtime[AUTH_MODE_ENV_VAR] == "token"
    written = {name: runtime[name] for name in ("PHONOLAKE_CACHE", "HF_HOME")}
    assert all(folder.startswith("/tmp/") for folder in written.values())  # the one place that may be written
    assert submitted == written
    assert runtime["PATH"].startswith("/opt/venv/bin:")


def test_the_runtime_environment_is_one_and_excludes_what_is_no_code() -> None:
    told = yaml.safe_load((DEPLOY / "runtime_env.yaml").read_text())
    RuntimeEnv(**told)  # refuses what it does not know
    excluded = [pattern.strip("/") for pattern in told["excludes"]]
    for needed in ("pipelines", "workers", "schemas", "pyproject.toml"):
        assert not any(fnmatch.fnmatch(needed, pattern) for pattern in excluded)
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().split()}
    assert {".venv", "demo-lake", "build"} <= set(excluded) & ignored


def test_the_install_step_gives_the_command_outside_the_checkout(tmp_path: Path) -> None:
    """The image's install without its dependencies, which are here already: into a folder, from what is copied only."""
    context = tmp_path / "context"
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        (context / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, context / name)
    for name in ("schemas", "workers", "pipelines"):
        shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site"), "."]
    subprocess.run([*install, "--disable-pip-version-check"], cwd=context, check=True, capture_output=True)
    (tmp_path / "empty").mkdir()
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path / "empty")}
    where = "import pipelines.cli, pipelines.demo; print(pipelines.cli.__file__)"
    for command in (["-c", where], ["-m", "pipelines", "--help"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path / "empty", env=clean, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert str(tmp_path / "site") in done.stdout or "A bucket of audio in" in done.stdout
    assert (tmp_path / "site/pipelines/demo/recipe.yaml").is_file()
