"""The same on a real S3 server: the audio lies on the disk, the lake on S3."""

from pathlib import Path

import pytest

from pipelines.store import Store
from tests.chaos.chain import MODELS, new_chain
from tests.chaos.command import Site
from tests.end_to_end.conftest import S3Server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where lakes may lie, for this process too."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return "s3://chaos"


def test_kills_on_s3_leave_a_run_that_finishes(
    cluster: Site, bucket: str, corpus: Path, undisturbed: Store, tmp_path: Path
) -> None:
    chain = new_chain(cluster, tmp_path, corpus, without=["transcripts"], lake=f"{bucket}/lake")
    chain.killed_at(
        "write:before:staging/*/receipts/*:1:self",
        "write:after:staging/*/receipts/*:2:self",
        "write:after:runs/*/verdict.json",
    )
    chain.killed_at("copy:after:data/failures/*")
    chain.killed_at("write_file:after:data/*:2:self", "write:before:runs/*/seal.json")
    chain.killed_at("delete:amid:staging/*")
    chain.ends_well()
    chain.compare(undisturbed)


def test_two_commands_started_together_make_one_lake_on_s3(
    cluster: Site, bucket: str, corpus: Path, undisturbed: Store, tmp_path: Path
) -> None:
    chain = new_chain(cluster, tmp_path, corpus, without=MODELS, lake=f"{bucket}/together")
    commands = [cluster.start(chain.recipe) for _ in range(2)]
    for command in commands:
        assert command.wait() == 0, command.said()
    print(f"{chain.look().attempts} attempts")
    chain.compare(undisturbed)
