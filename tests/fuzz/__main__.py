"""`python -m tests.fuzz --seconds N --seed S [--keep FOLDER]`: a campaign; the exit code is 1 where a rule broke."""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import chain, count, islice
from pathlib import Path
from random import Random

from tests.fuzz import campaign, mutations, shards, tars
from tests.fuzz.bombs import bombs
from tests.fuzz.seeds import seeds

RECORDINGS_A_ROUND = 800
TARS_A_ROUND = 40


def main() -> int:
    """Run rounds of recordings and tars until the time is up; print what came of them."""
    arguments = _arguments()
    ends, tally, shard_tally = time.monotonic() + arguments.seconds, campaign.Tally(), shards.ShardTally()
    recordings = chain(bombs(), _recordings(arguments.seed))
    archives = chain(tars.hand_made(), tars.mutants(arguments.seed))
    with campaign.impatient(), tempfile.TemporaryDirectory(prefix="phonolake-fuzz-") as folder:
        for number in count():
            settings = campaign.SETTINGS[number % len(campaign.SETTINGS)]
            campaign.run(islice(recordings, RECORDINGS_A_ROUND), settings, tally)
            shards.run(islice(archives, TARS_A_ROUND), Path(folder), shard_tally)
            if time.monotonic() > ends:
                break
    _report(tally, shard_tally)
    if arguments.keep:
        campaign.keep(tally, arguments.keep)
        shards.keep(shard_tally, arguments.keep)
    return 1 if tally.broken or shard_tally.broken else 0


def _recordings(seed: int) -> "chain[mutations.Mutant]":
    """Return mutants by lot, and between them every truncation and every extreme of every seed, once."""
    made = list(seeds().values())
    swept = [one for each in made for one in chain(mutations.truncations(each), mutations.extremes(each))]
    Random(seed).shuffle(swept)
    drawn = mutations.mutants(made, seed)
    return chain(chain.from_iterable((next(drawn), one, next(drawn)) for one in swept), drawn)


def _report(tally: campaign.Tally, shard_tally: shards.ShardTally) -> None:
    print(f"{tally.tried} recordings tried; the child took {tally.peak_bytes >> 20} MB at most")
    for outcome, times in tally.outcomes.most_common():
        print(f"  {times:8} {outcome}")
    found = ((one.mutant, f"{'BROKEN' if one.broken else 'odd'}: {one.reason}") for one in tally.findings)
    _print_smallest(found)
    print(f"{shard_tally.tried} tars tried; the lister took {shard_tally.peak_bytes >> 20} MB at most")
    for outcome, times in shard_tally.outcomes.most_common():
        print(f"  {times:8} {outcome}")
    _print_smallest((tar, f"BROKEN: {reason}") for tar, reason in shard_tally.broken)


def _print_smallest(found: Iterable[tuple[mutations.Mutant | tars.Tar, str]]) -> None:
    """Print what was found: of each kind how often, and the smallest input."""
    kinds: dict[str, list[tuple[mutations.Mutant | tars.Tar, str]]] = {}
    for one, reason in found:
        kinds.setdefault(re.sub(r"-?[\d.]+|'.*?'|/\S+", "", reason)[:60], []).append((one, reason))
    for kind in kinds.values():
        smallest, reason = min(kind, key=lambda each: len(each[0].content))
        print(f"  {reason[:300]}\n    {len(kind)} times; the smallest: {smallest.name}, {len(smallest.content)} bytes")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long to go on (a round is finished)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same inputs")
    parser.add_argument("--keep", type=Path, help="where to write what was found, and one input of each outcome")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
