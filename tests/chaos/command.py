"""The real command in a subprocess: started with bombs, waited for, and everything it started ended by its id."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.chaos.bombs import Bomb
from tests.end_to_end.conftest import free_ports

ROOT = Path(__file__).resolve().parents[2]
BOMB_FOLDER = Path(__file__).resolve().parent / "bomb"
MOST_SECONDS = 400.0  # for one command on a busy machine
KILLED = -signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Command:
    """A started command; its folder holds its bombs, what they counted, and its output."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    bombs: Sequence[Bomb]
    started: float = field(default_factory=time.monotonic)

    def wait(self, seconds: float = MOST_SECONDS) -> int:
        """Return its exit code, -9 where it was killed."""
        return self.process.wait(max(0.1, self.started + seconds - time.monotonic()))

    def went_off(self, number: int = 0) -> bool:
        """Whether one of its bombs did."""
        return (self.folder / f"{number}.off").exists()

    def bomber(self, number: int = 0, seconds: float = MOST_SECONDS) -> int:
        """Wait until one of its bombs goes off; return the id of the process that set it off."""
        deadline, note = time.monotonic() + seconds, self.folder / f"{number}.off"
        while not (note.exists() and note.read_text()):
            if time.monotonic() > deadline or self.process.poll() not in (None, KILLED):
                raise AssertionError(f"{self.bombs[number]} did not go off; {self.said()}")
            time.sleep(0.05)
        return int(note.read_text())

    def wake(self, number: int = 0) -> None:
        """Let the twin of a dead worker do its act."""
        (self.folder / f"{number}.wake").touch()

    def output(self) -> str:
        """Return all that it printed."""
        return (self.folder / "output").read_text()

    def said(self) -> str:
        """Return its exit code and the end of its output."""
        return f"exit code {self.process.poll()}; {self.output()[-1500:]}"


@dataclass(frozen=True, slots=True)
class Site:
    """Where commands run: with Ray embedded in each, or joined to the cluster at `address`."""

    folder: Path
    address: str | None = None
    also: dict[str, str] = field(default_factory=dict)

    def start(self, recipe: Path, bombs: Sequence[Bomb] = ()) -> Command:
        """Start `phonolake run` on a recipe."""
        folder = self.folder / f"{len(list(self.folder.glob('command-*'))):03d}"
        folder = folder.with_name(f"command-{folder.name}")
        folder.mkdir(parents=True)
        (folder / "bombs.json").write_text(json.dumps([asdict(bomb) for bomb in bombs]))
        (self.folder / "current").write_text(str(folder))
        environment = {**self.environment(), "PHONOLAKE_BOMBS": str(folder)}
        if self.address is not None:
            environment["RAY_ADDRESS"] = self.address
        script = f'echo $$ > "{folder}/driver"; exec "{sys.executable}" -m pipelines run "{recipe}"'
        with open(folder / "output", "wb") as output:
            process = subprocess.Popen(
                ["sh", "-c", script],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return Command(process, folder, bombs)

    def run(self, recipe: Path, bombs: Sequence[Bomb] = ()) -> Command:
        """Start `phonolake run` and wait for its end."""
        command = self.start(recipe, bombs)
        command.wait()
        return command

    def environment(self) -> dict[str, str]:
        """Return what commands and clusters of this site start with.

        The folder also ends PATH: a decoder child is given nothing else of it, and must be found.
        """
        inherited = {
            name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PHONOLAKE_BOMBS")
        }
        return {
            **inherited,
            **self.also,
            "PYTHONPATH": str(BOMB_FOLDER),
            "PATH": f"{os.environ['PATH']}:{self.folder}",
            "PHONOLAKE_CHAOS": str(self.folder),
        }

    def processes(self) -> dict[int, str]:
        """Return the living processes that were started here, by their ids, with their command lines."""
        mark, found = os.fsencode(self.folder), {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                variables = (entry / "environ").read_bytes().split(b"\0")
                if any(one.startswith((b"PATH=", b"PHONOLAKE_CHAOS=")) and one.endswith(mark) for one in variables):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return found

    def await_end(self, processes: Sequence[int], seconds: float = 60.0) -> None:
        """Wait until processes of this site have ended by themselves."""
        deadline = time.monotonic() + seconds
        while left := {process: name for process, name in self.processes().items() if process in processes}:
            assert time.monotonic() < deadline, f"these processes live on: {left}"
            time.sleep(0.1)

    def end_all(self) -> None:
        """End every process that was started here."""
        deadline = time.monotonic() + 20
        while left := self.processes():
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise AssertionError(f"these processes do not end: {left}")
            time.sleep(0.05)


@contextmanager
def embedded(folder: Path, also: dict[str, str] | None = None) -> Iterator[Site]:
    """Give a place where each command starts Ray for itself; nothing of it runs on afterwards."""
    scratch = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a short path: Ray's sockets allow 107 bytes
    site = Site(folder, None, {"RAY_TMPDIR": scratch, **(also or {})})
    try:
        yield site
    finally:
        site.end_all()
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def joined(folder: Path, also: dict[str, str] | None = None) -> Iterator[Site]:
    """Give a place where commands join one cluster of a node with two cores, which outlives them."""
    with embedded(folder, {"RAY_AUTH_MODE": "disabled", **(also or {})}) as site:
        folder.mkdir(parents=True, exist_ok=True)
        [port] = free_ports(1)
        address = f"127.0.0.1:{port}"
        command = [
            *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=2"),
            *("--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false"),
            *("--min-worker-port=0", "--max-worker-port=0"),  # any; two clusters would try the usual ones in one order
            *("--disable-usage-stats", f"--object-store-memory={512 << 20}"),
            f"--temp-dir={site.also['RAY_TMPDIR']}",
        ]
        with open(folder / "ray.log", "wb") as log:
            head = subprocess.Popen(command, env=site.environment(), stdout=log, stderr=log, start_new_session=True)
        try:
            _await_start(folder / "ray.log")
            yield Site(folder, address, site.also)
        finally:
            site.end_all()
            head.wait()


def _await_start(log: Path) -> None:
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in log.read_text():
        if time.monotonic() > deadline:
            raise RuntimeError(f"Ray did not start: {log.read_text()[-2000:]}")
        time.sleep(0.2)
