"""Means, rates and their errors; differences over the same samples."""

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean of at least one value."""
    return math.fsum(values) / len(values)


def median(values: Sequence[float]) -> float:
    """Middle value, or the mean of the two middle ones."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean of independent values; None for fewer than two."""
    if len(values) < 2:
        return None
    center = mean(values)
    variance = math.fsum((value - center) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def rate_error(hits: int, n: int) -> float:
    """Binomial standard error of a rate. Zero at 0 and 1, so read it beside :func:`wilson`."""
    rate = hits / n
    return math.sqrt(rate * (1 - rate) / n)


def wilson(hits: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a rate: 95% with the default ``z``, sensible at 0 and 1 too.

    Where a sample counts as a share of a hit, it is wider than needed: shares vary less than hits and misses.

    Source: E. B. Wilson, 1927, "Probable inference, the law of succession, and statistical inference".
    """
    rate = hits / n
    center = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, center - half), min(1.0, center + half)


def by_group(values: Sequence[float], groups: Sequence[int]) -> list[float]:
    """One value per group, with the mean of ``values``, whose standard error is that of values in groups.

    Values of one group (contexts of one document) are not independent: what counts is how far the groups'
    summed deviations from the mean differ. Groups of one value each give the values as they are.

    Holds: the cluster-robust error of a mean (tests/eval/test_stats.py).
    """
    center = mean(values)
    sums: dict[int, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        sums.setdefault(group, []).append(value - center)
    scale = len(sums) / len(values)
    return [center + scale * math.fsum(deviations) for deviations in sums.values()]


def ratio_samples(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Samples whose mean is the ratio of two sums, and whose standard error is the ratio's (delta method)."""
    ratio = math.fsum(above) / math.fsum(below)
    scale = len(below) / math.fsum(below)
    return [ratio + scale * (a - ratio * b) for a, b in zip(above, below, strict=True)]


def paired_error(values: Sequence[float], baseline: Sequence[float]) -> float | None:
    """Standard error of the difference of two means over the same samples; None where they do not pair up."""
    if len(values) != len(baseline):
        return None
    return standard_error([value - other for value, other in zip(values, baseline, strict=True)])


def paired_interval(
    values: Sequence[float], baseline: Sequence[float], seed: int
) -> tuple[float, float] | None:
    """95% interval of the difference of two means by the paired bootstrap; None where they do not pair up.

    The same samples are drawn, with replacement, for both; ``RESAMPLES`` times, percentiles.

    Source: P. Koehn, 2004, "Statistical significance tests for machine translation evaluation".
    """
    if len(values) != len(baseline) or len(values) < 2:
        return None
    differences = np.asarray(values, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    chance = np.random.default_rng(seed)
    # In portions, so that a task of ten thousand samples does not take gigabytes.
    portion = max(1, 2**22 // len(differences))
    means = np.concatenate(
        [
            differences[chance.integers(len(differences), size=(rows, len(differences)))].mean(axis=1)
            for rows in np.diff([*range(0, RESAMPLES, portion), RESAMPLES])
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mcnemar(values: Sequence[float], baseline: Sequence[float]) -> float | None:
    """Two-sided p-value of the exact McNemar test; None where samples are not pairs of right or wrong.

    Right is 1 or, in percent, 100, and wrong is 0. Only samples on which the two differ count: how likely is
    so uneven a split if either were as likely to be the one that is right.

    Source: Q. McNemar, 1947, "Note on the sampling error of the difference between correlated proportions".
    """
    if len(values) != len(baseline) or not values:
        return None
    found = {*values, *baseline}
    if not (found <= {0.0, 1.0} or found <= {0.0, 100.0}):
        return None
    gained = sum(value > other for value, other in zip(values, baseline, strict=True))
    lost = sum(value < other for value, other in zip(values, baseline, strict=True))
    unequal, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(unequal, count) for count in range(fewer + 1))
    return min(1.0, 2 * tail / 2**unequal)
