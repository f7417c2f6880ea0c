"""Tars through the listing of shards and the reading of their members, in a child that may hang or die of them.

`python -m tests.fuzz.shards` is that child: it reads paths from standard input and answers each with a line of JSON.
"""

import json
import os
import re
import resource
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.errors import RecipeError, StoreError
from pipelines.recipe_sections import SourceSection
from pipelines.sources import list_source
from schemas.failures import CODES
from tests.fuzz.campaign import peak_bytes
from tests.fuzz.tars import Tar
from workers.objects import Fetched, ObjectError, fetch
from workers.shards import read_piece
from workers.source import Place, Source

ROOT = Path(__file__).resolve().parents[2]
ADDRESS_SPACE_BYTES = 3 << 30
MUCH_MEMORY = 400 << 20  # bytes; it has 150 MB when it starts
MOST_BYTES = 1 << 20  # of a member, as limits.max_bytes would have it
TIMEOUT_SECONDS = 6.0


@dataclass(slots=True)
class ShardTally:
    """What came of tars: how many, their outcomes, and the broken rules with the tar that broke them."""

    tried: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[Tar, str]] = field(default_factory=list)
    peak_bytes: int = 0


def look_through(tar: Path) -> dict[str, object]:
    """List a tar and read every member of it that has no problem; return what came of that, and broken rules."""
    try:
        listing = list_source(SourceSection(tar=str(tar)))
    except (StoreError, RecipeError) as error:
        return {"outcome": type(error).__name__, "names": [], "broken": []}
    rows, wrong = listing.to_pylist(), []
    good = [row for row in rows if row["problem"] is None]
    problems = {row["problem"]["code"] for row in rows if row["problem"]}
    if not problems <= CODES.keys():
        wrong.append(f"problems {problems} are not in CODES")
    if len({row["uri"] for row in rows}) < len(rows):
        wrong.append("a uri stands twice")
    damaged, room = "shard_damaged" in problems, os.stat(tar).st_size
    outcomes = _read([_source(row) for row in good])
    if len(outcomes) != len(good):
        wrong.append(f"{len(outcomes)} outcomes of {len(good)} members")
    for row, outcome in zip(good, outcomes, strict=False):
        wrong += _of_a_member(row, outcome, room, damaged=damaged)
    names = [row["uri"].partition("#")[2] for row in good]
    return {"outcome": "+".join(sorted(problems)) or "listed", "names": names, "broken": wrong}


def _of_a_member(row: dict, outcome: Fetched | ObjectError, room: int, *, damaged: bool) -> list[str]:
    wrong, size, place = [], row["size_bytes"], row["place"]
    inside = place["piece"] is not None or 0 <= place["offset"] <= place["offset"] + size <= room
    if size < 0 or not (inside or damaged):
        wrong.append(f"a member of {size} bytes at {place['offset']} of {room}, and no word of damage")
    if isinstance(outcome, ObjectError) and outcome.code not in CODES:
        wrong.append(f"the code {outcome.code} is not in CODES")
    if isinstance(outcome, Fetched) and outcome.size_bytes != size:
        wrong.append(f"{outcome.size_bytes} bytes were read of {size}")
    if isinstance(outcome, ObjectError) and not damaged and outcome.code != "limit_bytes":
        wrong.append(f"a member listed as good cannot be read: {outcome.code} {outcome.message}")
    return wrong


def _source(row: dict) -> Source:
    return Source(row["uri"], row["etag"], row["size_bytes"], row["modified_ns"], Place(**row["place"]))


def _read(members: list[Source]) -> list[Fetched | ObjectError]:
    if not members:
        return []
    if members[0].place is not None and members[0].place.piece is not None:
        return list(read_piece(members, {}, None, MOST_BYTES))
    return [_fetched(member) for member in members]


def _fetched(member: Source) -> Fetched | ObjectError:
    if member.size_bytes > MOST_BYTES:
        return ObjectError("limit_bytes", "too big")
    try:
        return fetch(member, {})
    except ObjectError as error:
        return error


def run(tars: Iterable[Tar], folder: Path, tally: ShardTally, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
    """Send `tars` through one lister after the other and add what comes of them to `tally`."""
    lister = Lister()
    try:
        for tar in tars:
            note(tar, lister.look_through(tar, folder, timeout_seconds), tally)
    finally:
        lister.end()


def note(tar: Tar, answer: dict, tally: ShardTally) -> None:
    """Add what came of a tar to `tally`."""
    wrong, missing = list(answer["broken"]), set(tar.whole) - set(answer["names"])
    if missing and not wrong:
        wrong.append(f"members before the damage are not listed: {sorted(missing)}; {answer['outcome']}")
    tally.tried += 1
    tally.outcomes[str(answer["outcome"])] += 1
    tally.broken += [(tar, reason) for reason in wrong]
    tally.peak_bytes = max(tally.peak_bytes, answer.get("peak_bytes", 0))


def keep(tally: ShardTally, folder: Path) -> None:
    """Write down the smallest tar of each reason that a rule broke for."""
    folder.mkdir(parents=True, exist_ok=True)
    smallest: dict[str, Tar] = {}
    for tar, reason in tally.broken:
        kind = re.sub(r"[^a-z]+", "-", reason.lower())[:40].strip("-")
        if kind not in smallest or len(tar.content) < len(smallest[kind].content):
            smallest[kind] = tar
    for kind, tar in smallest.items():
        (folder / f"{kind}{tar.suffix}").write_bytes(tar.content)


class Lister:
    """A child that looks through tars; another one where it dies or hangs."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def look_through(self, tar: Tar, folder: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> dict:
        """Return what the child says of a tar, written to `folder`, and how much memory it took for that."""
        path = folder / f"shard{tar.suffix}"
        path.write_bytes(tar.content)
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{path}\n".encode())
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], timeout_seconds)
        if ready and (line := process.stdout.readline()):
            peak = peak_bytes(process.pid)
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
            return {**json.loads(line), "peak_bytes": peak}
        how = "died" if ready else f"gave no answer in {timeout_seconds:g} s"
        self.end()
        return {"outcome": "hung or died", "names": [], "broken": [f"the lister {how}"]}

    def end(self) -> None:
        """End the child."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None

    @staticmethod
    def _started() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.shards"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        assert process.stdout is not None
        process.stdout.readline()  # it says when it is ready, so that its start costs no tar its time
        return process


def main() -> None:
    """Answer paths until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            answer = look_through(Path(line.rstrip("\n")))
        except Exception as error:
            answer = {
                "outcome": type(error).__name__,
                "names": [],
                "broken": [f"raised {type(error).__name__}: {error}"],
            }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
