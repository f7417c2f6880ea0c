"""For all tests: no example of a property has a deadline, what a test is called, and how pytest-xdist divides them.

Tests of a file stay together and share what it sets up.
"""

import re
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # machines are busy; speed is measured in tests/bench
settings.load_profile("untimed")

GZIP_MAGIC = re.compile(r"x1f\\+x8b")
"""As it is escaped in names, once or more."""
LONG_NAME = 60
CHAOS = "tests/chaos/"
"""All of these stay together: their cluster and their undisturbed lake take most of a minute."""


def pytest_make_parametrize_id(val: object) -> str | None:
    """Calls binary content by its size: names must not differ between processes, as the time in a gzip does."""
    return f"{len(val)} bytes" if isinstance(val, bytes) and not (val.isascii() and len(val) < LONG_NAME) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names that hold the beginning of a gzip: pytest-xdist would, now and then, for the time in it."""
    if timed := [item.nodeid for item in items if GZIP_MAGIC.search(item.nodeid)]:
        raise pytest.UsageError(f"give these tests names without binary content (ids=...): {timed}")


@pytest.hookimpl(optionalhook=True)  # of xdist, without which the tests run too
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files go out in the order of their names, which is from the longest to the shortest: chaos, then end to end."""
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return CHAOS if nodeid.startswith(CHAOS) else str(super()._split_scope(nodeid))

    config.option.loadscopereorder = False
    return Together(config, log)
