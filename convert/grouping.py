"""Which source heads become one head."""

from convert.errors import ConvertError
from convert.merging.method import Groups


def adjacent_groups(source_heads: int, kv_heads: int) -> Groups:
    """Split the source's KV heads into runs of neighbours.

    Query heads follow their KV heads in order, so with adjacent groups every query head finds the head that
    replaced its own, and ``q_proj`` and ``o_proj`` stay as they are.

    Args:
        source_heads: KV heads of the source.
        kv_heads: KV heads of the result.

    Returns:
        For each new head, the source heads it replaces.

    Raises:
        ConvertError: ``kv_heads`` is below 1, above the source's, or does not divide it.
    """
    divisors = ", ".join(str(n) for n in range(1, source_heads + 1) if source_heads % n == 0)
    if kv_heads < 1:
        raise ConvertError(f"kv_heads={kv_heads} must be at least 1 (try {divisors})")
    if kv_heads > source_heads:
        raise ConvertError(
            f"kv_heads={kv_heads} exceeds the checkpoint's {source_heads} key/value heads (try {divisors})"
        )
    if source_heads % kv_heads:
        raise ConvertError(
            f"kv_heads={kv_heads} must divide the checkpoint's {source_heads} key/value heads "
            f"(try {divisors})"
        )
    size = source_heads // kv_heads
    return tuple(tuple(range(start, start + size)) for start in range(0, source_heads, size))
