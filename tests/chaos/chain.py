"""One lake through a list of kills to its end; what must hold at every moment is checked after each command."""

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from pipelines.gc import collect_garbage
from pipelines.store import Store
from tests.chaos.bombs import DRIVER, GROUP, Bomb, bomb
from tests.chaos.command import KILLED, Command, Site
from tests.chaos.evidence import Moment, check_not_again, check_progress, check_same, moment

MODELS = ("embeddings", "tags", "transcripts")
LAST = "delete:before:staging/*"
"""Kills the driver that has sealed: all receipts are still there to be looked at."""


@dataclass(slots=True)
class Chain:
    """A lake, the recipe that fills it, and the moments at which its commands ended.

    Attributes:
        without: tables that its recipe leaves out.
    """

    site: Site
    recipe: Path
    lake: Store
    without: Collection[str] = ()
    moments: list[Moment] = field(default_factory=list)

    def killed_at(self, *bombs: Bomb | str) -> Command:
        """Run the command until it ends; every bomb must go off, and the command die if it is meant to."""
        planted = [bomb(one) if isinstance(one, str) else one for one in bombs]
        started = time.monotonic()
        command = self.site.run(self.recipe, planted)
        for number, one in enumerate(planted):
            assert command.went_off(number), f"{one} did not go off; {command.said()}"
        dies = any({DRIVER, GROUP} & set(one.victim.split("+")) for one in planted)
        assert command.process.returncode == (KILLED if dies else 0), f"{planted}: {command.said()}"
        now = self.look()
        state = f"{now.attempts} attempts, {len(now.done)} done, {len(now.published)} published, sealed: {now.sealed}"
        print(f"{time.monotonic() - started:5.1f} s  {', '.join(map(str, planted))}  ->  {state}", flush=True)
        return command

    def look(self) -> Moment:
        """Note how far the lake is."""
        now = moment(self.lake)
        if self.moments:
            check_progress(self.moments[-1], now)
        self.moments.append(now)
        return now

    def finish(self, undisturbed: Store) -> None:
        """Run to the seal, look whether anything was computed again, and compare with an undisturbed lake."""
        self.killed_at(LAST)
        for before in self.moments:
            check_not_again(before, self.lake)
        self.ends_well()
        self.compare(undisturbed)

    def compare(self, undisturbed: Store) -> None:
        """The lake is as an undisturbed one, and what dead writers left in staging can be swept."""
        check_same(self.lake, undisturbed, self.without)
        collect_garbage(self.lake)
        left = [path for path in self.lake.list("staging/clips") if path.endswith(".parquet")]
        assert not left  # some S3 servers go on listing empty folders

    def ends_well(self) -> Command:
        """Run the command undisturbed; it must end with 0."""
        command = self.site.run(self.recipe)
        assert command.process.returncode == 0, command.said()
        self.look()
        return command


def new_chain(
    site: Site, folder: Path, corpus: Path, *, without: Collection[str] = (), lake: str | None = None
) -> Chain:
    """Give a chain for a lake that is not there yet, in `folder` if nothing else is said."""
    uri = lake or str(folder / "lake")
    content = {
        "corpus": "clips",
        "source": {"uri": f"{corpus}/"},
        "lake": {"uri": uri},
        "segments": {"by": "speech"},
        "spectrograms": [{"kind": "log_mel"}],
        "embeddings": [{"model": "yamnet"}],
        "tags": [{"model": "yamnet", "top_k": 3}],
        "transcripts": [{"model": "whisper-tiny.en"}],
        "limits": {"max_failed_fraction": 1},
    }
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**content, **{table: [] for table in without}}))
    return Chain(site, recipe, Store(uri), without)
