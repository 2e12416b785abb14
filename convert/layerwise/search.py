"""``--group search``: the partition of KV heads that loses least when each group becomes one head."""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator
from functools import cache

from convert.grouping import adjacent_groups
from convert.merging.method import Groups

EXACT_GROUPS = 2_000
"""With at most this many different groups every one is measured and the best partition is certain."""
EXACT_HEADS = 16
RESTARTS = 8
TRIED_SWAPS = 4
"""Swaps per head that are measured themselves in the last descent, the most promising by their pairs."""

Cost = Callable[[tuple[int, ...]], float]
"""What a group loses; its members ascend."""


def search_groups(kv_heads: int, size: int, cost: Cost, seed: int) -> Groups:
    """Find the partition into groups of equal size with the least summed cost.

    Exact where the groups are few enough to be measured all; otherwise a local search that swaps two heads of
    different groups while that helps, from the adjacent partition and from random ones. To measure a group is
    to merge it, so the descents from all starts go by the sums of pairs of heads, each measured once, and
    only the last, from the best of them, by whole groups.

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
    by_pairs = cache(lambda group: sum(known(pair) for pair in itertools.combinations(group, 2)))
    found = [_improve(start, by_pairs, by_pairs) for start in starts]
    candidates = [starts[0], min(found, key=lambda groups: sum(map(by_pairs, groups)))]
    best = min(candidates, key=lambda groups: sum(map(known, groups)))
    return _improve(best, known, by_pairs, TRIED_SWAPS * kv_heads)


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


def _improve(groups: Groups, cost: Cost, screen: Cost, tried: int | None = None) -> Groups:
    """Swap the pair of heads that helps most until none does; ``screen`` picks the ``tried`` ones."""
    current = groups
    while True:
        swaps = sorted(_swaps(current, screen))[:tried]
        gains = []
        for _, a, b, left, right in swaps:
            gain = cost(left) + cost(right) - cost(current[a]) - cost(current[b])
            gains.append((gain, a, b, left, right))
        gain, a, b, left, right = min(gains)
        if gain >= -1e-12:
            return current
        kept = [group for place, group in enumerate(current) if place not in (a, b)]
        current = _ordered([*kept, left, right])


def _swaps(groups: Groups, cost: Cost) -> Iterator[tuple[float, int, int, tuple[int, ...], tuple[int, ...]]]:
    """Every swap of two heads: what it adds to the cost, both groups' places, and both groups after it."""
    for a, b in itertools.combinations(range(len(groups)), 2):
        before = cost(groups[a]) + cost(groups[b])
        for i, j in itertools.product(groups[a], groups[b]):
            left = tuple(sorted({*groups[a], j} - {i}))
            right = tuple(sorted({*groups[b], i} - {j}))
            yield cost(left) + cost(right) - before, a, b, left, right
