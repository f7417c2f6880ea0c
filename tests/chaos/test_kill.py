"""SIGKILL at every named point; the same command again brings the run to the end of an undisturbed one."""

import os
import signal
from pathlib import Path

from pipelines.store import Store
from tests.chaos.bombs import bomb
from tests.chaos.chain import LAST, MODELS, new_chain
from tests.chaos.command import Site
from tests.chaos.evidence import tables

PLANNING = (
    "write:before:runs/*/plan-*.parquet",
    "write:before:runs/*/plan.json",
    "write:after:runs/*/plan.json",
    "write:after:runs/*/attempts/*",
)
COMPUTING = (  # workers die first, then the driver
    (
        "open:after:runs/*/plan-*.parquet:1:self",
        "write:before:staging/*/spectrograms/*:1:self",
        "write:after:staging/*/receipts/*:1",
    ),
    (
        "model:after:*:2:self",
        "write:after:staging/*/embeddings/*:2:self",
        "write:before:staging/*/receipts/*:2",
    ),
    (
        "write:before:staging/*/receipts/*:1:self",
        "write:after:staging/*/receipts/*:1:self",
        "write:before:runs/*/verdict-*.parquet",
    ),
)
FINISHING = (
    "write:before:runs/*/verdict.json",
    "write:after:runs/*/verdict.json",
    "copy:before:data/failures/*",
    "copy:after:data/failures/*",
    "write_file:before:data/*:2",
    "write_file:after:data/*:1",
    "write:before:runs/*/ledger.parquet",
    "write:before:runs/*/seal.json",
)
WORKERS = (
    "write:after:staging/*/segments/*:1:self",
    "write:before:staging/*/receipts/*:2:self",
    "write:after:staging/*/receipts/*:2:self",
    "write_file:before:data/*:1:self",
    "write_file:after:data/*:2:self",
)


def test_a_run_killed_at_every_step_finishes_as_if_nothing_had_been(
    cluster: Site, corpus: Path, undisturbed: Store, tmp_path: Path
) -> None:
    chain = new_chain(cluster, tmp_path, corpus)
    for steps in (*PLANNING, *COMPUTING, *FINISHING):
        chain.killed_at(*([steps] if isinstance(steps, str) else steps))
    chain.finish(undisturbed)


def test_killed_workers_do_not_stop_the_command(
    cluster: Site, corpus: Path, undisturbed: Store, tmp_path: Path
) -> None:
    chain = new_chain(cluster, tmp_path, corpus, without=MODELS)
    chain.killed_at(*WORKERS, LAST)
    assert chain.moments[-1].attempts == 1
    chain.ends_well()
    chain.compare(undisturbed)


def test_a_decoder_child_killed_from_outside_costs_one_recording(
    cluster: Site, corpus: Path, undisturbed: Store, tmp_path: Path
) -> None:
    chain = new_chain(cluster, tmp_path, corpus, without=MODELS)
    chain.killed_at("decode:before:*:5:child")
    found, expected = tables(chain.lake), tables(undisturbed)
    ids, all_ids = (set(lake["recordings"]["recording_id"].to_pylist()) for lake in (found, expected))
    [lost] = all_ids - ids
    failures = {row["recording_id"]: row for row in found["failures"].to_pylist()}
    assert (failures[lost]["code"], failures[lost]["transient"]) == ("decoder_crashed", False)
    assert "signal 9" in failures[lost]["message"]
    assert len(failures) == expected["failures"].num_rows + 1
    assert found["recordings"].num_rows == expected["recordings"].num_rows - 1


def test_a_command_whose_ray_dies_ends_with_1_and_the_next_one_finishes(
    alone: Site, corpus: Path, undisturbed: Store, tmp_path: Path
) -> None:
    chain = new_chain(alone, tmp_path, corpus, without=MODELS)
    command = alone.run(chain.recipe, [bomb("write:after:staging/*/receipts/*:2:raylet")])
    assert command.went_off()
    assert command.process.returncode == 1, command.said()  # by our error, or at once by Ray's, which says nothing
    said = command.output()
    assert "Traceback" not in said, said
    if "phonolake:" in said:
        assert "run the same command to resume" in said, said
    assert chain.look().done
    chain.finish(undisturbed)


def test_a_killed_tally_does_not_stop_the_command(cluster: Site, corpus: Path, tmp_path: Path) -> None:
    chain = new_chain(cluster, tmp_path, corpus, without=MODELS)
    command = cluster.start(chain.recipe, [bomb("write:before:staging/*/receipts/*:1:sleep")])
    worker = command.bomber()
    [tally] = [process for process, name in cluster.processes().items() if name.startswith("ray::Tally")]
    os.kill(tally, signal.SIGKILL)
    os.kill(worker, signal.SIGCONT)
    assert command.wait() == 0, command.said()
