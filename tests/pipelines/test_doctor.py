"""Every check of the doctor, where all is well and where it is not."""

import errno
import json
import sys
import tomllib
from collections import namedtuple
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest
import soundfile
from report_lake import tone
from typer.testing import CliRunner

from pipelines.backends import Disk
from pipelines.cli import app
from pipelines.doctor import cluster, diagnosis, machine
from pipelines.doctor.check import failed, ok, tried, warning
from pipelines.doctor.decoding import check_decoder
from pipelines.doctor.models import model_checks
from pipelines.doctor.stores import check_lake, check_source
from pipelines.errors import PhonolakeError
from pipelines.recipe import parse_recipe
from pipelines.recipe_sections import SourceSection
from pipelines.store import Store

Usage = namedtuple("Usage", "total used free")


def free(monkeypatch, size: float) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(0, 0, size))


def test_this_machine_has_the_python_and_the_packages_that_the_project_pins():
    assert machine.check_python().state == "ok"
    assert machine.check_packages().state == "ok"


def test_the_doctor_and_the_command_name_the_version_and_where_its_code_lies():
    first = next(iter(machine.machine_checks()))
    assert (first.name, first.state) == ("phonolake", "ok")
    version = tomllib.loads(machine.PROJECT.read_text())["project"]["version"]
    assert first.said == f"{version} at {machine.PROJECT.parent}"
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"phonolake {version}\n")


def test_a_package_that_is_missing_or_another_version_is_named(monkeypatch):
    versions = {"torch": "1.0"}

    def version(name: str) -> str:
        if name == "soxr":
            raise metadata.PackageNotFoundError(name)
        return versions.get(name) or real(name)

    real = metadata.version
    monkeypatch.setattr(machine.metadata, "version", version)
    check = machine.check_packages()
    assert check.state == "failed"
    assert "torch is 1.0, not ==2.11.0" in check.said
    assert "soxr is not installed" in check.said
    assert "constraints.txt" in check.do


def test_another_python_is_told(monkeypatch):
    monkeypatch.setattr(machine.platform, "python_version", lambda: "3.9.1")
    assert machine.check_python().state == "failed"


@pytest.mark.parametrize(("size", "state"), [(0.5e9, "failed"), (5e9, "warning"), (50e9, "ok")])
def test_space_on_a_disk_is_judged_where_the_folder_would_be(monkeypatch, tmp_path, size, state):
    free(monkeypatch, size)
    check = machine.check_disk("disk: models", tmp_path / "not" / "there")
    assert (check.state, str(tmp_path) in check.said) == (state, True)


@pytest.mark.parametrize(("size", "state"), [(1e9, "failed"), (3e9, "warning"), (9e9, "ok")])
@pytest.mark.parametrize("limit", ["memory_available", "container_left"])
def test_memory_is_what_machine_and_container_both_leave(monkeypatch, limit, size, state):
    monkeypatch.setattr(machine, "memory_available", lambda: 64e9)
    monkeypatch.setattr(machine, "container_left", lambda: float("inf"))
    monkeypatch.setattr(machine, limit, lambda: size)
    assert machine.check_memory().state == state


def test_shared_memory_too_small_for_the_object_store_is_a_warning_that_says_how_to_raise_it(monkeypatch):
    free(monkeypatch, 64e6)
    check = machine.check_shared_memory()
    assert check.state == "warning"
    assert "--shm-size" in check.do


def test_a_driver_without_a_gpu_for_torch_is_a_warning(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.Path, "exists", lambda _: True)
    check = machine.check_gpus()
    assert (check.state, "sees no GPU" in check.said) == ("warning", True)


def test_the_decoders_child_decodes_a_tone_in_every_format():
    assert check_decoder().state == "ok"


def test_a_decoder_that_dies_is_told_format_by_format():
    check = check_decoder([sys.executable, "-c", "raise SystemExit(3)"])
    assert check.state == "failed"
    assert "the decoding process died" in check.said


def test_a_cluster_that_does_not_answer_is_a_failed_check(monkeypatch):
    def connect() -> None:
        raise PhonolakeError("no Ray cluster answers at RAY_ADDRESS=nowhere:1")

    monkeypatch.setattr(cluster, "connect", connect)
    check = tried("ray", cluster.check_ray, "mend RAY_ADDRESS")
    assert (check.state, check.do) == ("failed", "mend RAY_ADDRESS")
    assert "nowhere:1" in check.said


# Stores


def everything(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_lake_that_is_not_there_yet_is_tried_and_nothing_stays(tmp_path):
    assert check_lake(Store(str(tmp_path / "new" / "lake"))).state == "ok"
    assert everything(tmp_path) == []


def test_a_lake_that_is_there_is_left_as_it_was(tmp_path):
    store = Store(str(tmp_path))
    store.put("runs/calls/00001/plan.json", b"{}")
    before = everything(tmp_path)
    assert check_lake(store).state == "ok"
    assert everything(tmp_path) == before


def test_a_store_that_overwrites_what_is_created_again_is_no_place_for_a_lake(tmp_path, monkeypatch):
    place = Disk.write

    def write(self: Disk, path: str, data: bytes, *, create: bool) -> None:
        place(self, path, data, create=False)

    monkeypatch.setattr(Disk, "write", write)
    check = tried("lake", lambda: check_lake(Store(str(tmp_path / "lake"))), "another store")
    assert check.state == "failed"
    assert "overwrites where If-None-Match forbids it" in check.said
    assert everything(tmp_path) == []


@pytest.mark.parametrize("act", ["write", "copy", "list", "read", "delete"])
def test_a_lake_where_an_act_is_refused_is_told_with_the_act(tmp_path, monkeypatch, act):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Disk, act, refuse)
    check = tried("lake", lambda: check_lake(Store(str(tmp_path / "lake"))), "see the policies")
    assert check.state == "failed"
    assert f"cannot {act}" in check.said
    assert "Read-only" in check.said


def source(**section: str) -> SourceSection:
    return SourceSection.model_validate(section)


def test_a_source_is_listed_as_far_as_its_first_object_and_that_is_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.1), 16_000)
    for uri in (f"{tmp_path}/", f"{tmp_path}/*.wav", f"{tmp_path}/a.wav"):
        check = check_source(source(uri=uri))
        assert (check.state, "a.wav gives its first 1024 bytes" in check.said) == ("ok", True)


def test_a_manifest_is_read_and_one_that_is_none_is_a_failed_check(tmp_path):
    (tmp_path / "good.csv").write_text("path\na.wav\nb.wav\n")
    assert "2 entries" in check_source(source(manifest=f"{tmp_path}/good.csv")).said
    (tmp_path / "bad.csv").write_text("name\na.wav\n")
    assert tried("source", lambda: check_source(source(manifest=f"{tmp_path}/bad.csv")), "mend it").state == "failed"


@pytest.mark.parametrize("uri", ["nowhere/", "empty/"])
def test_a_source_with_nothing_in_it_is_a_failed_check(tmp_path, uri):
    (tmp_path / "empty").mkdir()
    check = tried("source", lambda: check_source(source(uri=f"{tmp_path}/{uri}")), "see source in the recipe")
    assert check.state == "failed"
    assert str(tmp_path) in check.said


def test_a_source_that_only_fsspec_reaches_is_tried_too():
    memory = fsspec.filesystem("memory")
    memory.pipe("/calls/2026/a.wav", b"RIFF" * 500)
    try:
        for uri in ("memory://calls/", "memory://calls/2026/a.wav", "memory://calls/**/*.wav"):
            check = check_source(source(uri=uri))
            assert (check.state, "a.wav gives its first 1024 bytes" in check.said) == ("ok", True)
        nothing = tried("source", lambda: check_source(source(uri="memory://none/")), "see source in the recipe")
        assert (nothing.state, "memory://none/" in nothing.said) == ("failed", True)
    finally:
        memory.rm("/calls", recursive=True)


@pytest.mark.skipif(find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_a_source_whose_package_is_missing_is_a_failed_check_that_names_it():
    check = tried("source", lambda: check_source(source(uri="gs://bucket/calls/")), "see source in the recipe")
    assert check.state == "failed"
    assert "pip install gcsfs" in check.said


def test_a_source_that_cannot_be_read_is_a_failed_check(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    monkeypatch.setattr("workers.objects.time.sleep", lambda _: None)
    monkeypatch.setattr("workers.readers.open", refused, raising=False)
    check = tried("source", lambda: check_source(source(uri=f"{tmp_path}/")), "see source in the recipe")
    assert check.state == "failed"
    assert "Permission denied" in check.said


def refused(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


# Models and the command


def recipe(tmp_path: Path, **sections: object):
    content = {"corpus": "x", "source": {"uri": f"{tmp_path}/"}, "lake": {"uri": f"{tmp_path}/lake"}, **sections}
    return parse_recipe(content, "recipe")


def test_every_model_that_is_missing_is_named_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = recipe(
        tmp_path,
        transcripts=[{"model": "no/such"}],
        embeddings=[{"model": "yamnet"}],
        tags=[{"model": "nor/this"}],
    )
    checks = list(model_checks(asked, has_ray=False))
    assert [(check.name, check.state) for check in checks] == [
        ("model nor/this", "failed"),
        ("model no/such", "failed"),
    ]


def test_a_model_of_the_wrong_kind_is_a_failed_check(tmp_path):
    [check] = model_checks(recipe(tmp_path, transcripts=[{"model": "yamnet"}]), has_ray=False)
    assert (check.name, check.state) == ("recipe", "failed")
    assert "yamnet is a yamnet model" in check.said


@pytest.mark.parametrize(
    ("last", "code"), [(ok("x", "fine"), 0), (warning("x", "low", "more"), 0), (failed("x", "no", "mend it"), 1)]
)
def test_the_exit_code_is_1_where_a_check_failed_and_says_what_to_do(monkeypatch, last, code):
    monkeypatch.setattr(diagnosis, "diagnose", lambda _: iter([ok("python", "3"), last]))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == code
    assert (f"-> {last.do}" in done.stdout) == bool(last.do)
    told = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert [one["state"] for one in told] == ["ok", last.state]


def test_a_check_that_dies_of_what_it_finds_is_a_failed_one():
    assert tried("x", lambda: 1 / 0, "mend it") == failed("x", "division by zero", "mend it")
