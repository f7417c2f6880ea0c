"""The state machine of test_protocol.py over a lake on a real S3 server: a few short lives."""

from itertools import count

from hypothesis import Phase
from hypothesis.stateful import run_state_machine_as_test
from test_protocol import CHAOS, RunProtocol, profile

from tests.end_to_end.conftest import S3Server

LAKES = count(1)


class RunProtocolOnS3(RunProtocol):
    """The same, and every lake a prefix of one bucket."""

    def new_lake(self) -> str:
        return f"s3://protocol/{next(LAKES)}"


def test_whatever_writers_do_on_s3_every_row_is_there_once(s3: S3Server) -> None:
    s3.filesystem().mkdir("protocol")
    phases = [Phase.explicit, Phase.reuse, Phase.generate]  # to find less of what fails would take an hour
    run_state_machine_as_test(RunProtocolOnS3, settings=profile(30 if CHAOS else 4, 3, phases=phases))
