"""``--group search``: the partition of KV heads that loses least when each group becomes one head."""

import itertools
import math
import random
from collections.abc import Callable, Iterable
from functools import cache

from convert.grouping import adjacent_groups
from convert.merging.method import Groups

EXACT_GROUPS = 2_000
"""With at most this many different groups every one is measured and the best partition is certain."""
EXACT_HEADS = 16
RESTARTS = 4

Cost = Callable[[tuple[int, ...]], float]
"""What a group loses; its members ascend."""


def search_groups(kv_heads: int, size: int, cost: Cost, seed: int) -> Groups:
    """Find the partition into groups of equal size with the least summed cost.

    Exact where the groups are few enough to be measured all; otherwise a local search that swaps two heads of
    different groups while that helps, from the adjacent partition and from random ones.

    Args:
        kv_heads: KV heads of the source.
        size: Heads per group, a divisor.
        cost: Cost of one group.
        seed: For the random starts.

    Returns:
        The partition, groups ordered by their first head.

    Holds: never worse than adjacent groups; the same for the same seed (tests/convert/test_grouping.py).
    """
    known = cache(cost)
    if size in (1, kv_heads):
        return adjacent_groups(kv_heads, kv_heads // size)
    if kv_heads <= EXACT_HEADS and math.comb(kv_heads, size) <= EXACT_GROUPS:
        return _exact(kv_heads, size, known)
    generator = random.Random(seed)
    starts = [adjacent_groups(kv_heads, kv_heads // size)]
    for _ in range(RESTARTS - 1):
        heads = list(range(kv_heads))
        generator.shuffle(heads)
        starts.append(_ordered(heads[start : start + size] for start in range(0, kv_heads, size)))
    found = [_improve(start, known) for start in starts]
    return min(found, key=lambda groups: sum(map(known, groups)))


def _ordered(groups: Iterable[Iterable[int]]) -> Groups:
    return tuple(sorted(tuple(sorted(group)) for group in groups))


def _exact(kv_heads: int, size: int, cost: Cost) -> Groups:
    """Best partition of every set of heads that is left, from the lowest head on."""

    @cache
    def best(left: frozenset[int]) -> tuple[float, Groups]:
        if not left:
            return 0.0, ()
        first, *others = sorted(left)
        options = []
        for companions in itertools.combinations(others, size - 1):
            group = (first, *companions)
            rest_cost, rest = best(left - set(group))
            options.append((cost(group) + rest_cost, (group, *rest)))
        return min(options)

    return best(frozenset(range(kv_heads)))[1]


def _improve(groups: Groups, cost: Cost) -> Groups:
    """Swap the pair of heads that helps most until none does."""
    current = groups
    while True:
        swaps = []
        for a, b in itertools.combinations(range(len(current)), 2):
            before = cost(current[a]) + cost(current[b])
            for i, j in itertools.product(current[a], current[b]):
                left = tuple(sorted({*current[a], j} - {i}))
                right = tuple(sorted({*current[b], i} - {j}))
                swaps.append((cost(left) + cost(right) - before, a, b, left, right))
        gain, a, b, left, right = min(swaps)
        if gain >= -1e-12:
            return current
        kept = [group for place, group in enumerate(current) if place not in (a, b)]
        current = _ordered([*kept, left, right])
