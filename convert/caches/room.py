"""How much room a growing layer of ours makes."""


def room(tokens: int) -> int:
    """Count the columns that it has once it has seen ``tokens``.

    Holds: equals ``patches.cache.room`` (tests/patches/test_growing.py).
    """
    unit = 1 << max(tokens.bit_length() - 6, 4)
    return -(-tokens // unit) * unit
