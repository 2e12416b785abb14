"""How many KV heads each layer keeps: one number for all, or a budget shared out by what is lost."""

import math
from collections.abc import Sequence
from functools import cache

from convert.errors import ConvertError

AUTO = "auto:"


def parse_kv_heads(text: int | str | None, source_heads: int) -> int | float:
    """Read what ``--kv-heads`` says.

    Args:
        text: A number, ``auto:MEAN``, or None for the source's.
        source_heads: KV heads of the source.

    Returns:
        KV heads of every layer, or as a float the mean over layers.

    Raises:
        ConvertError: it is neither, does not divide the source's, or the mean is not from 1 to the source's.
    """
    if text is None:
        return source_heads
    divisors = ", ".join(map(str, divisors_of(source_heads)))
    if isinstance(text, str) and text.startswith(AUTO):
        mean = _number(text.removeprefix(AUTO))
        if not 1 <= mean <= source_heads:
            raise ConvertError(
                f"kv_heads={text!r}: the mean over layers must be from 1 to the checkpoint's {source_heads}"
            )
        return float(mean)
    try:
        return _check(int(text), source_heads, divisors)
    except ValueError as error:
        raise ConvertError(
            f"kv_heads={text!r} is neither a number (try {divisors}) nor auto:MEAN, such as "
            f"auto:{max(source_heads / 4, 1):g}"
        ) from error


def divisors_of(source_heads: int) -> tuple[int, ...]:
    """List the numbers of KV heads that a source can be merged to, ascending."""
    return tuple(count for count in range(1, source_heads + 1) if source_heads % count == 0)


def allocate_heads(losses: Sequence[dict[int, float]], mean: float) -> tuple[int, ...]:
    """Share a budget of KV heads out so that the summed loss is least.

    Args:
        losses: For each layer, what each number of KV heads loses.
        mean: KV heads per layer on average, at most, 1 or more; each costs the same bytes in every layer.

    Returns:
        KV heads of every layer. Of equal losses the fewer heads win.

    Holds: no other allocation within the budget loses less (tests/convert/test_head_counts.py).
    """
    budget = math.floor(mean * len(losses) + 1e-9)

    @cache
    def best(layer: int, left: int) -> tuple[float, int, tuple[int, ...]]:
        if layer == len(losses):
            return 0.0, 0, ()
        options = []
        for count, loss in losses[layer].items():
            if count + len(losses) - layer - 1 <= left:
                later_loss, later_heads, later = best(layer + 1, left - count)
                options.append((loss + later_loss, count + later_heads, (count, *later)))
        return min(options)

    return best(0, budget)[2]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _check(count: int, source_heads: int, divisors: str) -> int:
    if count < 1:
        raise ConvertError(f"kv_heads={count} must be at least 1 (try {divisors})")
    if count > source_heads:
        raise ConvertError(
            f"kv_heads={count} exceeds the checkpoint's {source_heads} key/value heads (try {divisors})"
        )
    if source_heads % count:
        raise ConvertError(
            f"kv_heads={count} must divide the checkpoint's {source_heads} key/value heads (try {divisors})"
        )
    return count
