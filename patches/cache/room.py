"""How much room a growing layer makes: a function of the tokens alone, so that bytes can be predicted."""


def room(tokens: int) -> int:
    """The columns that a layer which grows holds once it has seen ``tokens`` of them.

    ``tokens`` rounded up to a multiple of a power of two: 16, and from 1,024 tokens on between 1/64 and 1/32
    of them. At most 1/32 is slack from 512 tokens on, and none at powers of two from 16 on.

    Holds: growing token by token or all at once ends in the same room (tests/patches/test_growing.py).
    """
    unit = 1 << max(tokens.bit_length() - 6, 4)
    return -(-tokens // unit) * unit
