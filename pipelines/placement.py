"""What surely finds a place on the nodes of a cluster, in whatever order Ray asks and whichever node it takes.

Ray gives each actor to some node that has room for it; which one is not ours to say. So a division that could be packed
by a clever packer is not enough: small members might come first, a few on each node, and leave the large one no node to
go to, for ever. What is said here holds for every packer that never leaves a member waiting while a node has room.

All sizes are in hundredths of a core, as whole numbers.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from math import gcd


def all_find_room(nodes: Iterable[int], members: Mapping[int, int]) -> bool:
    """Return whether members (count by size) surely all find room on nodes of these sizes; False where unsure.

    A member of size s waits only while every node is filled beyond its size less s. That takes at least a certain sum
    of the others' sizes (each counted for no more than the emptiest node needs); if the others have less, it finds
    room. All sizes are multiples of their greatest common divisor, which makes this exact for members of one size.
    """
    unit = gcd(*members)
    floors = Counter(node // unit * unit for node in nodes)
    return all(
        any(_never_full(floors, members, size, least, unit) for least in floors if least >= size) for size in members
    )


def _never_full(nodes: Mapping[int, int], members: Mapping[int, int], size: int, least: int, unit: int) -> bool:
    """Return whether one of the nodes of at least `least` always has room for `size`, beside all other members."""
    needs = {node - size + unit: count for node, count in nodes.items() if node >= least}
    most = max(needs)
    others = sum(count * min(other, most) for other, count in members.items()) - min(size, most)
    return others < sum(need * count for need, count in needs.items())


def sure_slots(nodes: Iterable[int], members: Mapping[int, int], task: int) -> int:
    """Return how many tasks of a size surely find room beside members that lie on these nodes, somehow."""
    nodes = list(nodes)
    unit = gcd(task, *members, *nodes)
    free = sum(nodes) - sum(size * count for size, count in members.items())
    wasted = sum(min(task - unit, node) for node in nodes)
    return max(0, -(-(free - wasted) // task))
