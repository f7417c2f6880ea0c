"""What the chaos tests share: a corpus, one cluster, a lake that nobody disturbed, and an S3 server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.store import Store
from tests.chaos.chain import new_chain
from tests.chaos.command import Site, embedded, joined
from tests.chaos.corpus import make_corpus
from tests.end_to_end.conftest import S3Server, serving

AWS_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")


@pytest.fixture(scope="package")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The end-to-end tests' S3 server, a second one that leaves this process's environment alone."""
    running = serving(tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as before:
        for name in AWS_VARIABLES:
            before.delenv(name, raising=False)
        server = running.__enter__()
        server.filesystem().mkdir("chaos")
    yield server
    kept = {name: os.environ[name] for name in AWS_VARIABLES if name in os.environ}
    running.__exit__(None, None, None)
    os.environ.update(kept)


@pytest.fixture(scope="package")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve shipped clips and eight masters."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="package")
def cluster(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Commands join one cluster, which is not theirs to kill; its workers know the S3 server."""
    with joined(tmp_path_factory.mktemp("cluster"), s3.environment) as site:
        yield site


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Site]:
    """Every command starts Ray for itself."""
    with embedded(tmp_path / "site") as site:
        yield site


@pytest.fixture(scope="package")
def undisturbed(cluster: Site, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The lake that one command makes when nobody kills anything."""
    chain = new_chain(cluster, tmp_path_factory.mktemp("undisturbed"), corpus)
    chain.ends_well()
    return chain.lake
