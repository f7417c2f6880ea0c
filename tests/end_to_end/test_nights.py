"""A lake over many nights, by its commands: what fails is retried, what is stuck is closed."""

import io
import json
import os
import shutil
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import ray
import soundfile

import pipelines.run
from pipelines.cli import app
from pipelines.errors import PhonolakeError
from pipelines.store import Store
from tests.end_to_end.conftest import S3Server
from tests.end_to_end.test_command_line import DEMO, write
from tests.end_to_end.test_command_line import phonolake as separate_phonolake

NAMES = ("beep", "invalid", "vm-goodbye", "tt-allbusy")


@pytest.fixture
def recipe(tmp_path: Path, cluster: None) -> Path:
    """A recipe without models over four real clips."""
    (tmp_path / "clips").mkdir()
    for file in sorted(DEMO.rglob("*.*")):
        if file.stem in NAMES and file.parent.name == "en":
            shutil.copy(file, tmp_path / "clips" / file.name)
    content = {"corpus": "clips", "source": {"uri": "clips/"}, "lake": {"uri": "lake"}, "segments": {"by": "whole"}}
    return write(tmp_path, {**content, "spectrograms": [{"kind": "mfcc"}]})


def phonolake(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in this process, on the Ray that runs already."""
    out, said = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(said):
        try:
            code = int(app(list(map(str, arguments)), standalone_mode=False) or 0)
        except PhonolakeError as error:
            code = error.exit_code
            print(error, file=said)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), said.getvalue())


def asked(lake: Path, sql: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(phonolake("query", lake, sql, "--json").stdout)
    return rows


def sound(lake: Path | str) -> dict[str, object]:
    """Verify a lake; return what was found."""
    done = phonolake("verify", lake, "--json")
    assert done.returncode == 0, done.stdout
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_what_failed_is_planned_again_by_its_code_and_leaves_the_current_failures(recipe: Path) -> None:
    lake = recipe.parent / "lake"
    largest = max((recipe.parent / "clips").iterdir(), key=lambda path: path.stat().st_size)
    tight = ("--set", f"limits.max_bytes={largest.stat().st_size - 1}")
    assert phonolake("run", recipe, *tight).returncode == 0
    assert [row["code"] for row in json.loads(phonolake("failures", lake, "--json").stdout)] == ["limit_bytes"]

    assert "nothing to try again" in phonolake("retry", recipe).stdout
    assert phonolake("retry", recipe, "--code", "no_such_code").returncode == 2
    done = phonolake("retry", recipe, "--code", "limit_bytes", "--json")
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["recordings"], json.loads(done.stdout)["ok"]) == (1, 1)

    assert json.loads(phonolake("failures", lake, "--json").stdout) == []
    assert len(json.loads(phonolake("failures", lake, "--history", "--json").stdout)) == 1
    (counts,) = asked(
        lake,
        "SELECT (SELECT count(*) FROM recordings) r, (SELECT count(DISTINCT uri) FROM current_recordings) u, "
        "(SELECT count(*) FROM spectrograms) s, (SELECT count(*) FROM current_spectrograms) c",
    )
    assert counts == {"r": 4, "u": 4, "s": 4, "c": 4}
    assert sound(lake)["runs"] == 2


def test_an_open_run_is_closed_by_abandon_and_what_it_had_not_done_returns(recipe: Path) -> None:
    lake = recipe.parent / "lake"
    (recipe.parent / "clips" / "empty.wav").touch()
    assert "no run is open" in phonolake("abandon", recipe).stdout
    assert phonolake("run", recipe, "--set", "limits.max_failed_fraction=0").returncode == 3
    changed = ("--set", "segments.by=windows", "--set", "segments.max_seconds=2")
    refused = phonolake("run", recipe, *changed)
    assert refused.returncode == 4
    assert "phonolake abandon" in refused.stderr
    assert phonolake("retry", recipe).returncode == 4

    staged = list((lake / "staging").rglob("receipts/*.parquet"))
    done = phonolake("abandon", recipe, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert staged
    assert facts["ok"] + facts["failed"] + facts["returned"] == facts["recordings"] == 5
    assert sound(lake)["runs"] == 1

    assert phonolake("run", recipe).returncode == 0 or facts["returned"] == 0
    assert len(asked(lake, "SELECT uri FROM current_recordings")) == 4
    assert len(asked(lake, "SELECT recording_id FROM recordings")) == 4  # nobody was read twice
    assert phonolake("run", recipe, *changed).returncode == 0
    (cut,) = asked(lake, "SELECT max(end_seconds - start_seconds) longest FROM current_segments")
    assert float(str(cut["longest"])) <= 2
    sound(lake)


def test_garbage_of_sealed_runs_goes_and_a_damaged_lake_is_found_out(recipe: Path) -> None:
    lake = recipe.parent / "lake"
    assert phonolake("run", recipe).returncode == 0
    late = lake / "staging" / "clips" / "00001" / "0001" / "tags" / "late.parquet"
    late.parent.mkdir(parents=True)
    late.write_bytes(b"of a stale worker")
    assert any("gc" in note for note in sound(lake)["notes"])  # type: ignore[attr-defined]
    assert json.loads(phonolake("gc", lake, "--json").stdout)["objects"] == 1
    assert not late.exists()
    assert sound(lake)["notes"] == []

    victim = next((lake / "data" / "spectrograms").rglob("*.parquet"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    done = phonolake("verify", lake)
    assert done.returncode == 1
    assert victim.name in done.stdout


def test_credentials_that_expire_in_mid_run_end_with_1_and_the_run_is_resumed_with_new_ones(
    recipe: Path, s3: S3Server
) -> None:
    filesystem = s3.filesystem()
    filesystem.mkdir("expiring")
    for clip in (recipe.parent / "clips").iterdir():
        filesystem.put(str(clip), f"expiring/clips/{clip.name}")
    filesystem.touch("expiring/clips/empty.wav")
    source = ("--set", "source.uri=s3://expiring/clips/")
    assert phonolake("run", recipe, *source, "--set", "limits.max_failed_fraction=0").returncode == 3  # planned
    shutil.rmtree(recipe.parent / "lake" / "staging")  # nothing is done yet, as far as receipts say

    done = separate_phonolake("run", recipe, *source, AWS_SECRET_ACCESS_KEY="expired")
    assert done.returncode == 1
    assert "refuses the credentials" in done.stderr
    assert "run the same command to resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert phonolake("run", recipe, *source).returncode == 0
    assert len(asked(recipe.parent / "lake", "SELECT uri FROM recordings")) == 4
    sound(recipe.parent / "lake")


def test_a_lake_that_cannot_be_written_ends_with_1_and_is_resumed(recipe: Path) -> None:
    lake = recipe.parent / "lake"
    (recipe.parent / "clips" / "empty.wav").touch()
    assert phonolake("run", recipe, "--set", "limits.max_failed_fraction=0").returncode == 3
    shutil.rmtree(lake / "staging")
    (lake / "staging").write_text("in the way of every write")
    done = phonolake("run", recipe)
    assert done.returncode == 1
    assert str(lake) in done.stderr
    assert "Traceback" not in done.stderr
    os.unlink(lake / "staging")
    assert phonolake("run", recipe).returncode == 0
    sound(lake)


MANY = 300


@pytest.fixture(params=["disk", "s3"])
def many(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server, cluster: None) -> tuple[Path, Store]:
    """A recipe over many short recordings, and its lake: both on the disk, or both on S3."""
    (tmp_path / "clips").mkdir()
    for number in range(MANY):
        samples = np.random.default_rng(number).normal(0, 0.1, 800)
        soundfile.write(tmp_path / "clips" / f"{number:03d}.wav", samples, 8000, "PCM_16")
    root = str(tmp_path)
    if request.param == "s3":
        root = "s3://quiet"
        s3.filesystem().mkdir("quiet")
        s3.filesystem().put(f"{tmp_path / 'clips'}/", "quiet/clips/", recursive=True)
    content = {"corpus": "clips", "source": {"uri": f"{root}/clips/"}, "lake": {"uri": f"{root}/lake"}}
    return write(tmp_path, {**content, "segments": {"by": "whole"}}), Store(f"{root}/lake")


def signatures(lake: Store) -> dict[str, tuple[object, ...]]:
    """Everything that lies in a lake, with what tells whether it was written again."""
    if lake.is_local:
        found = {path: os.stat(lake.full(path)) for path in lake.list("")}
        return {path: (stat.st_size, stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}
    objects = lake.backend.filesystem.find(lake.full("").rstrip("/"), detail=True)  # type: ignore[attr-defined]
    return {path: (entry["size"], entry["ETag"], str(entry["LastModified"])) for path, entry in objects.items()}


def test_a_night_with_nothing_new_ends_with_0_starts_no_ray_and_writes_nothing(
    many: tuple[Path, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, lake = many
    done = phonolake("run", recipe, "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, MANY), done.stderr
    before = signatures(lake)
    assert len(before) > 5

    def start(*args: object, **options: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(pipelines.run, "connect", start)
    monkeypatch.setattr(ray, "init", start)
    again = phonolake("run", recipe)
    assert (again.returncode, again.stderr) == (0, "")
    assert "nothing new" in again.stdout
    for command in ("plan", "retry", "abandon"):
        assert phonolake(command, recipe).returncode == 0
    assert signatures(lake) == before

    with pytest.raises(AssertionError, match="Ray was started"):  # or this would prove nothing
        phonolake("run", recipe, "--set", "spectrograms=[{kind: mfcc}]")
    assert signatures(lake) == before


def test_a_lake_that_cannot_be_written_in_mid_run_is_told_and_the_run_is_resumed(recipe: Path) -> None:
    lake = recipe.parent / "lake"
    in_the_way = lake / "staging" / "clips" / "00001" / "0001" / "spectrograms"  # a file, where a folder is wanted
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    stopped = phonolake("run", recipe)
    assert stopped.returncode == 1
    assert "run 00001 stopped: cannot write " in stopped.stderr
    assert str(in_the_way) in stopped.stderr
    assert "run the same command to resume" in stopped.stderr
    assert "UDF" not in stopped.stderr
    in_the_way.unlink()
    assert phonolake("run", recipe).returncode == 0
    assert sound(lake)
