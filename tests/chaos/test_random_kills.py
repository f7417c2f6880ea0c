"""One round of what `make chaos` does hundreds of times."""

from pathlib import Path

from pipelines.store import Store
from tests.chaos.chain import MODELS, new_chain
from tests.chaos.command import Site
from tests.chaos.rounds import carry_out, draw


def test_random_kills_leave_a_run_that_finishes(
    cluster: Site, corpus: Path, undisturbed: Store, tmp_path: Path
) -> None:
    one = draw(seed=2, number=3)
    assert not one.embedded
    print(one)
    carry_out(one, new_chain(cluster, tmp_path, corpus, without=MODELS), undisturbed, seconds=15.0)
