"""Several drivers on one run, and workers of dead drivers that write late: the lake is as if one had done it all."""

import os
import signal
from pathlib import Path

from pipelines.store import Store
from tests.chaos.bombs import bomb
from tests.chaos.chain import MODELS, new_chain
from tests.chaos.command import KILLED, Site

STALE = (  # drivers that sleep, and workers whose driver dies while a twin of theirs lingers
    "write:before:runs/*/plan.json:1:sleep",
    "write:before:runs/*/attempts/*:1:sleep",
    "write:before:staging/*/receipts/*:2:driver+linger",
    "write:before:runs/*/verdict.json:1:sleep",
    "write_file:before:data/*:1:driver+linger",
    "write:before:runs/*/ledger.parquet:1:sleep",
    "write:before:runs/*/seal.json:1:sleep",
)


def test_two_commands_started_together_make_one_lake(
    cluster: Site, corpus: Path, undisturbed: Store, tmp_path: Path
) -> None:
    chain = new_chain(cluster, tmp_path, corpus, without=MODELS)
    commands = [cluster.start(chain.recipe) for _ in range(2)]
    for command in commands:
        assert command.wait() == 0, command.said()
    chain.compare(undisturbed)


def test_whoever_wakes_after_the_seal_changes_nothing(
    cluster: Site, corpus: Path, undisturbed: Store, tmp_path: Path
) -> None:
    chain = new_chain(cluster, tmp_path, corpus, without=MODELS)
    commands = [cluster.start(chain.recipe, [bomb(STALE[0])])]
    for point in STALE[1:]:
        commands[-1].bomber()
        commands.append(cluster.start(chain.recipe, [bomb(point)]))
    stale = [command.bomber() for command in commands]
    chain.ends_well()
    before = chain.look()
    assert before.sealed
    assert set(stale) <= set(cluster.processes())
    for command, process in zip(commands, stale, strict=True):
        command.wake()
        os.kill(process, signal.SIGCONT)
    for command, point in zip(commands, STALE, strict=True):
        assert command.wait() == (KILLED if "driver" in point else 0), f"{point}: {command.said()}"
    cluster.await_end(stale)
    late = chain.look()  # no record changed, and nothing that is published
    assert late.published.keys() == before.published.keys()
    assert "nothing new" in chain.ends_well().said()
    chain.compare(undisturbed)
