"""`make chaos`: rounds of random kills, a line each; `--first N --rounds 1` with its seed does round N again.

Every S3_EVERY-th round has its lake on a real S3 server.
"""

import argparse
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.chain import new_chain
from tests.chaos.command import embedded, joined
from tests.chaos.corpus import make_corpus
from tests.chaos.rounds import carry_out, draw
from tests.end_to_end.conftest import serving


def main() -> int:
    """Do the rounds; return 1 if a lake was wrong."""
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="phonolake-chaos-"))
    corpus, failed = make_corpus(folder / "corpus"), 0
    print(f"seed {arguments.seed}, in {folder}", flush=True)
    with ExitStack() as stack:
        stack.enter_context(serving(folder / "s3")).filesystem().mkdir("chaos")
        sites = [stack.enter_context(where(folder / where.__name__)) for where in (joined, embedded)]
        calm = [new_chain(site, folder / f"calm-{number}", corpus) for number, site in enumerate(sites)]
        seconds = [_timed(chain.ends_well) for chain in calm]
        print(f"undisturbed: {seconds[0]:.1f} s joined, {seconds[1]:.1f} s embedded", flush=True)
        for number in range(arguments.first, arguments.first + arguments.rounds):
            one, place, started = draw(arguments.seed, number), folder / f"round-{number}", time.monotonic()
            lake = f"s3://chaos/round-{number}" if one.on_s3 else None
            try:
                chain = new_chain(sites[one.embedded], place, corpus, lake=lake)
                carry_out(one, chain, calm[0].lake, seconds[one.embedded])
            except AssertionError as error:
                failed += 1
                print(f"{one}  FAILED, see {place}: {error}", flush=True)
                continue
            print(f"{one}  ok, {time.monotonic() - started:.1f} s", flush=True)
            shutil.rmtree(place)
    print(f"{arguments.rounds - failed} of {arguments.rounds} rounds ended with the undisturbed lake")
    if not failed:
        shutil.rmtree(folder)
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=1, help="the number of the first round")
    return parser.parse_args()


def _timed(act) -> float:
    started = time.monotonic()
    act()
    return time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
