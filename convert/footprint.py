"""How many bytes a KV cache takes: pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass

from convert.request import Row

LENGTHS = (4096, 32768, 131072)


@dataclass(frozen=True)
class CacheShape:
    """What decides the size of a cache.

    Args:
        kv_heads: Key/value heads of each layer.
        head_dim: Numbers per head.
        element_bytes: Bytes per number.
        slots: For each layer, the most tokens it keeps (sinks + window); None keeps all.
        at_once: Whether a layer with slots allocates them with its first token, and one without has ``room``
            for more than it holds, as the windowed tier does.
    """

    kv_heads: tuple[int, ...]
    head_dim: int
    element_bytes: int
    slots: tuple[int | None, ...]
    at_once: bool = False


def kv_bytes(cache: CacheShape, tokens: int) -> int:
    """Count the bytes of one sequence's cache.

    Args:
        cache: Shape of the cache.
        tokens: Length of the sequence.

    Returns:
        Bytes of keys and values over all layers.

    Holds: 512 KiB per token for Llama-2-7B in fp16 (tests/convert/test_footprint.py).
    """
    held = sum(
        heads * _columns(slots, tokens, cache.at_once)
        for heads, slots in zip(cache.kv_heads, cache.slots, strict=True)
    )
    return held * _head_bytes(cache)


def room(tokens: int) -> int:
    """Count the columns that a growing layer of the windowed tier has once it has seen ``tokens``.

    Holds: equals ``patches.cache.room`` (tests/patches/test_growing.py).
    """
    unit = 1 << max(tokens.bit_length() - 6, 4)
    return -(-tokens // unit) * unit


def _columns(slots: int | None, tokens: int, at_once: bool) -> int:
    if at_once:
        return room(tokens) if slots is None else slots
    return tokens if slots is None else min(tokens, slots)


def kv_per_token(cache: CacheShape) -> int:
    """Count the bytes of one token in every layer, windowed or not."""
    return sum(cache.kv_heads) * _head_bytes(cache)


def kv_growth(cache: CacheShape) -> int:
    """Count the bytes that each further token adds once every window is full."""
    growing = (heads for heads, slots in zip(cache.kv_heads, cache.slots, strict=True) if slots is None)
    return sum(growing) * _head_bytes(cache)


def _head_bytes(cache: CacheShape) -> int:
    return 2 * cache.head_dim * cache.element_bytes


def build_rows(
    before: CacheShape, after: CacheShape, parameters: tuple[int, int], nbytes: tuple[int, int]
) -> tuple[Row, ...]:
    """Build the table of a conversion.

    Args:
        before: The source's cache.
        after: The result's cache.
        parameters: Parameters of source and result.
        nbytes: Bytes of the weight files of source and result.

    Returns:
        Parameters, file bytes, KV bytes per token, past the window if there is one, and at several lengths.
    """
    rows = [
        Row("Parameters", *parameters, unit="count"),
        Row("Weight files", *nbytes, unit="bytes"),
        Row("KV cache per token", kv_per_token(before), kv_per_token(after), unit="bytes"),
    ]
    if _windowed(before.slots) or _windowed(after.slots):
        rows.append(
            Row("KV cache per token past the window", kv_growth(before), kv_growth(after), unit="bytes")
        )
    for tokens in LENGTHS:
        label = f"KV cache at {tokens // 1024}k tokens"
        rows.append(Row(label, kv_bytes(before, tokens), kv_bytes(after, tokens), unit="bytes"))
    return tuple(rows)


def _windowed(slots: Sequence[int | None]) -> bool:
    return any(count is not None for count in slots)
