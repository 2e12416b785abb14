"""Which source heads become one head."""

from convert.merging.method import Groups


def adjacent_groups(source_heads: int, kv_heads: int) -> Groups:
    """Split the source's KV heads into runs of neighbours.

    Query heads follow their KV heads in order, so with adjacent groups every query head finds the head that
    replaced its own, and ``q_proj`` and ``o_proj`` stay as they are.

    Args:
        source_heads: KV heads of the source.
        kv_heads: KV heads of the result, a divisor.

    Returns:
        For each new head, the source heads it replaces.
    """
    size = source_heads // kv_heads
    return tuple(tuple(range(start, start + size)) for start in range(0, source_heads, size))
