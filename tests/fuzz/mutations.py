"""Changes to a valid file: each leaves most of it as it was, so that a reader gets far before it meets them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from tests.fuzz.anatomy import anatomy
from tests.fuzz.seeds import Seed
from workers.headerless import RawAudio

HEADER_BYTES = 256  # where most headers end
EXTREMES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0xFF_FFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
MOST_BYTES = 1 << 20  # of a mutant

Mutator = Callable[[bytes, Random, Sequence[bytes]], bytes]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed file, and how it came about."""

    name: str
    content: bytes
    raw: RawAudio | None = None


def mutants(seeds: Sequence[Seed], number: int) -> Iterator[Mutant]:
    """Yield changed seeds without end; the same `number` gives the same ones."""
    chance, donors = Random(number), [seed.content for seed in seeds]
    while True:
        seed = chance.choice(seeds)
        content, steps = seed.content, []
        for _ in range(chance.choice((1, 1, 1, 2, 2, 3))):
            mutate = chance.choice(MUTATORS)
            content = mutate(content, chance, donors)[:MOST_BYTES] or seed.content
            steps.append(mutate.__name__)
        if chance.random() < 0.9:
            content = anatomy(content).repair(content)
        yield Mutant(f"{seed.name} {' '.join(steps)}", content, seed.raw)


def truncations(seed: Seed) -> Iterator[Mutant]:
    """Yield a seed cut off after each byte of its header, and at each end of a part and around it."""
    ends = {end + near for _, end in anatomy(seed.content).parts for near in (-1, 0, 1)}
    for end in sorted({*range(min(HEADER_BYTES, len(seed.content))), *ends}):
        if 0 <= end < len(seed.content):
            yield Mutant(f"{seed.name} cut at {end}", seed.content[:end], seed.raw)


def extremes(seed: Seed) -> Iterator[Mutant]:
    """Yield a seed with each of its numbers at each extreme, one at a time."""
    found = anatomy(seed.content)
    for number in found.numbers:
        for value in EXTREMES:
            changed = bytearray(seed.content)
            number.put(changed, value)
            if changed != seed.content:
                yield Mutant(f"{seed.name} {number.at / 8:g}={value:#x}", found.repair(bytes(changed)), seed.raw)


def _cut(content: bytes, chance: Random, donors: Sequence[bytes]) -> bytes:
    return content[: chance.choice((chance.randint(1, HEADER_BYTES), chance.randint(1, max(1, len(content) - 1))))]


def _flip_bits(content: bytes, chance: Random, donors: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    reach = chance.choice((64, HEADER_BYTES, len(content)))
    for _ in range(chance.randint(1, 8)):
        bit = chance.randrange(min(reach, len(content)) * 8)
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _set_numbers(content: bytes, chance: Random, donors: Sequence[bytes]) -> bytes:
    changed, numbers = bytearray(content), anatomy(content).numbers
    for _ in range(chance.randint(1, 3)):
        if numbers:
            chance.choice(numbers).put(changed, chance.choice((*EXTREMES, chance.getrandbits(64), len(content))))
    return bytes(changed)


def _move_parts(content: bytes, chance: Random, donors: Sequence[bytes]) -> bytes:
    """Double, drop, swap or shuffle parts."""
    parts = anatomy(content).parts
    if not parts:
        return content
    start, end = chance.choice(parts)
    way = chance.randrange(4)
    if way == 0:
        return content[:end] + content[start:end] * chance.choice((1, 1, 2, 50)) + content[end:]
    if way == 1:
        return content[:start] + content[end:]
    if way == 2:
        other, stop = chance.choice(parts)
        first, second = sorted([(start, end), (other, stop)])
        if first[1] > second[0]:  # one lies in the other: put it in once more
            return content[: first[0]] + content[slice(*second)] + content[first[0] :]
        middle = content[first[1] : second[0]]
        return content[: first[0]] + content[slice(*second)] + middle + content[slice(*first)] + content[second[1] :]
    tops = [part for part in parts if part[0] >= parts[0][0]]
    chance.shuffle(tops)
    return content[: parts[0][0]] + b"".join(content[slice(*part)] for part in tops)


def _splice(content: bytes, chance: Random, donors: Sequence[bytes]) -> bytes:
    """Put in a piece of another file, or go on with it."""
    donor = chance.choice(donors)
    places = [edge for part in anatomy(content).parts for edge in part] or [len(content) // 2]
    edges = [edge for part in anatomy(donor).parts for edge in part] or [0]
    at, start = chance.choice(places), chance.choice(edges)
    if chance.random() < 0.5:
        return content[:at] + donor[start:]
    return content[:at] + donor[start : start + chance.choice((16, 200, 2000))] + content[at:]


def _overwrite(content: bytes, chance: Random, donors: Sequence[bytes]) -> bytes:
    start = chance.randrange(len(content))
    length = min(chance.choice((4, 16, 64, 512)), len(content) - start)
    filling = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
    return content[:start] + filling + content[start + length :]


MUTATORS: tuple[Mutator, ...] = (
    *(_cut, _flip_bits, _flip_bits, _set_numbers, _set_numbers, _set_numbers),
    *(_move_parts, _move_parts, _splice, _overwrite),
)
