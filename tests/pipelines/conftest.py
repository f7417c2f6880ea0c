"""What the tests of the pipeline share."""

import pytest

from pipelines.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    """An empty lake on the disk."""
    return Store(str(tmp_path))
