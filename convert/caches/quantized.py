"""``int8`` and ``int4``: older keys and values as codes of few bits, in blocks that are made once."""

from functools import partial

from convert.caches.policy import KINDS, CachePolicy, Layer, Settings, check_count

GRID_BYTES = 4
"""A scale and a zero point, float16 each."""


def check(settings: Settings) -> None:
    """Refuse what is out of range.

    Raises:
        ConvertError: a setting is.
    """
    for name, least in (("block", 1), ("group", 1), ("residual", 0), ("sinks", 0)):
        check_count(name, settings[name], least)


def nbytes(bits: int, settings: Settings, layer: Layer, tokens: int) -> int:
    """Exact tokens, allocated at once, and whole blocks of codes: in a window layer all that it ever has."""
    block, group, residual = (settings[name] for name in ("block", "group", "residual"))
    if layer.window is None:
        sinks = settings["sinks"]
        exact, blocks = residual + block, max(tokens - sinks - residual, 0) // block
    else:
        sinks = layer.sinks
        exact, blocks = residual + block, -(-(layer.window - residual) // block)
        if layer.window <= exact:
            exact, blocks = layer.window, 0
    codes = 2 * -(-layer.head_dim * bits // 8) + GRID_BYTES * -(-layer.head_dim // group)
    coded = layer.kv_heads * (block * codes + GRID_BYTES * layer.head_dim)
    return (sinks + exact) * layer.token_bytes + blocks * coded


def _policy(bits: int) -> CachePolicy:
    return CachePolicy(
        name=f"int{bits}",
        summary=f"tokens before the most recent in {bits} bits, keys by channel and values by token (KIVI)",
        kinds=KINDS,
        defaults={"block": 32, "group": 32, "residual": 64, "sinks": 4},
        check=check,
        nbytes=partial(nbytes, bits),
    )


INT8, INT4 = _policy(8), _policy(4)
