"""Rounds of random kills: one lake each, killed a few times at random, finished, and compared with an undisturbed one.

A round is decided by seed and number alone; only what a time-out hits depends on the machine.
"""

import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

from pipelines.store import Store
from tests.chaos.bombs import DRIVER, GROUP, RAYLET, SELF, Bomb
from tests.chaos.chain import Chain
from tests.chaos.command import KILLED, Command, Site

WORKER = "worker"
ACTS = {"read": 12, "open": 12, "list": 8, "write": 60, "write_file": 6, "copy": 1, "delete": 1, "model": 6}
"""How often each act is done in an undisturbed run, or less."""
MOST_KILLS = 4
S3_EVERY = 4
"""Of so many rounds one has its lake on S3."""
TALLY = "ray::Tally"
PATIENCE_SECONDS = 900.0  # for a command; a machine may be busy


@dataclass(frozen=True, slots=True)
class Strike:
    """A kill from outside, after this part of the time that an undisturbed command takes."""

    part: float
    victim: str

    def __str__(self) -> str:
        return f"{self.victim}@{self.part:.2f}"


@dataclass(frozen=True, slots=True)
class Round:
    """What a round does: with Ray embedded or in a cluster, and one kill for each of its commands."""

    seed: int
    number: int
    embedded: bool
    kills: tuple[Strike | Bomb, ...]

    @property
    def on_s3(self) -> bool:
        """Whether its lake lies on S3."""
        return self.number % S3_EVERY == 0

    def __str__(self) -> str:
        where, lake = "embedded" if self.embedded else "joined", "s3" if self.on_s3 else "disk"
        return f"seed {self.seed} round {self.number:4d} {where:8s} {lake:4s} {', '.join(map(str, self.kills))}"


def draw(seed: int, number: int) -> Round:
    """Decide a round."""
    chance = random.Random(f"{seed}/{number}")
    embedded = chance.random() < 0.5
    kills = tuple(_draw_kill(chance, embedded) for _ in range(chance.randint(1, MOST_KILLS)))
    return Round(seed, number, embedded, kills)


def _draw_kill(chance: random.Random, embedded: bool) -> Strike | Bomb:
    if chance.random() < 0.5:
        victims = [DRIVER, DRIVER, GROUP, WORKER, *([RAYLET] if embedded else [])]
        return Strike(chance.uniform(0, 1), chance.choice(victims))
    act = chance.choice([*ACTS, "write", "write", "write_file"])
    when, victim = chance.choice(("before", "after")), chance.choice((DRIVER, GROUP, SELF))
    return Bomb(act, when, "*", chance.randint(1, ACTS[act]), victim)


def carry_out(one: Round, chain: Chain, undisturbed: Store, seconds: float) -> None:
    """Do a round; `seconds` is what an undisturbed command takes. AssertionError if the lake is wrong."""
    for number, kill in enumerate(one.kills):
        command = chain.site.start(chain.recipe, [kill] if isinstance(kill, Bomb) else [])
        if isinstance(kill, Strike):
            hit = strike(chain.site, command, kill, seconds, random.Random(f"{one.seed}/{one.number}/{number}"))
        command.wait(PATIENCE_SECONDS)
        _check_end(command, kill, hit if isinstance(kill, Strike) else None)
        if chain.look().sealed:
            break
    if not chain.moments[-1].sealed:
        chain.finish(undisturbed)
    else:
        chain.ends_well()
        chain.compare(undisturbed)


def strike(site: Site, command: Command, kill: Strike, seconds: float, chance: random.Random) -> str | None:
    """Kill from outside when it is time; return who was hit, None where the command was faster."""
    with suppress(TimeoutError):
        _sleep_beside(command, kill.part * seconds)
        return None
    if kill.victim in (DRIVER, GROUP):
        (os.killpg if kill.victim == GROUP else os.kill)(command.process.pid, signal.SIGKILL)
        return kill.victim
    marks = {WORKER: "ray::", RAYLET: "/raylet/raylet "}
    found = sorted((name, process) for process, name in site.processes().items() if marks[kill.victim] in name[:200])
    if not found:
        return None
    name, process = chance.choice(found)
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    return name


def _sleep_beside(command: Command, seconds: float) -> None:
    """Return when the command ends; TimeoutError if that takes longer."""
    deadline = command.started + seconds
    while command.process.poll() is None:
        if time.monotonic() >= deadline:
            raise TimeoutError
        time.sleep(0.02)


def _check_end(command: Command, kill: Strike | Bomb, hit: str | None) -> None:
    """A killed driver dies, a command that lost Ray or its tally stops with 1, and no other kill stops one."""
    allowed = [0]
    if kill.victim in (DRIVER, GROUP, SELF):
        allowed.append(KILLED)
    if hit and (kill.victim == RAYLET or hit.startswith(TALLY)):
        allowed.append(1)
    assert command.process.returncode in allowed, f"{kill} hit {hit}: {command.said()}"
