"""The same on a real S3 server: the audio lies on the disk, the lake on S3."""

from pathlib import Path

import pytest

from pipelines.store import Store
from tests.chaos.chain import new_chain
from tests.chaos.command import Site
from tests.end_to_end.conftest import S3Server


def test_kills_on_s3_leave_a_run_that_finishes(
    cluster: Site, s3: S3Server, corpus: Path, undisturbed: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    chain = new_chain(cluster, tmp_path, corpus, without=["transcripts"], lake="s3://chaos/lake")
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
