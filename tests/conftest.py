"""How pytest-xdist divides the tests among its workers: those of a file stay together and share what it sets up."""

from typing import Any

import pytest

CHAOS = "tests/chaos/"
"""All of these stay together: their cluster and their undisturbed lake take most of a minute."""


@pytest.hookimpl(optionalhook=True)  # of xdist, without which the tests run too
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files go out in the order of their names, which is from the longest to the shortest: chaos, then end to end."""
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return CHAOS if nodeid.startswith(CHAOS) else str(super()._split_scope(nodeid))

    config.option.loadscopereorder = False
    return Together(config, log)
