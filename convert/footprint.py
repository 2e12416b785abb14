"""How many bytes a KV cache takes: pure arithmetic."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from convert.caches import PLAIN, KvCache
from convert.caches.policy import Layer
from convert.request import Row

LENGTHS = (4096, 32768, 131072)


@dataclass(frozen=True)
class CacheShape:
    """What decides the size of a cache.

    Args:
        kv_heads: Key/value heads of each layer.
        head_dim: Numbers per head.
        element_bytes: Bytes per number in the model's dtype.
        slots: For each layer, the most tokens it keeps (sinks + window); None keeps all.
        ours: Whether it is a cache of ours, whose layers with slots allocate them with their first token and
            whose others have room for more than they hold.
        sinks: How many of the slots are for first tokens.
        kept: How tokens are kept; other than as they are only in a cache of ours.
    """

    kv_heads: tuple[int, ...]
    head_dim: int
    element_bytes: int
    slots: tuple[int | None, ...]
    ours: bool = False
    sinks: int = 0
    kept: KvCache = PLAIN

    def layers(self) -> Iterator[tuple[int, Layer]]:
        """One of all layers that are alike, and how many they are."""
        bounded = sum(slots is not None for slots in self.slots)
        for (heads, slots), count in Counter(zip(self.kv_heads, self.slots, strict=True)).items():
            shape = (heads, self.head_dim, self.element_bytes)
            if slots is None:
                yield count, Layer(*shape, alike=len(self.slots) - bounded)
            else:
                yield count, Layer(*shape, slots - self.sinks, self.sinks, bounded)


def kv_bytes(cache: CacheShape, tokens: int) -> int:
    """Count the bytes of one sequence's cache.

    Args:
        cache: Shape of the cache.
        tokens: Length of the sequence.

    Returns:
        Bytes of keys and values over all layers, and of what is noted about them.

    Raises:
        ConvertError: a budget of ``kept`` has no room for what it must hold.

    Holds: 512 KiB per token for Llama-2-7B in fp16 (tests/convert/test_footprint.py).
    """
    held = 0
    for count, layer in cache.layers():
        whole = layer.token_bytes * min(tokens, layer.slots or tokens)
        held += count * (cache.kept.of(layer).nbytes(layer, tokens) if cache.ours else whole)
    return held


def kv_read(cache: CacheShape, tokens: int) -> int:
    """Count the bytes of them that a decode step reads: nothing that is still empty."""
    return sum(count * cache.kept.of(layer).read(layer, tokens) for count, layer in cache.layers())


def kv_per_token(cache: CacheShape) -> int:
    """Count the bytes of one token while every layer keeps it."""
    return round(sum(count * cache.kept.of(layer).token_bytes(layer) for count, layer in cache.layers()))


def kv_growth(cache: CacheShape) -> int:
    """Count the bytes that each further token adds once every window and every budget is full."""
    growing = ((count, layer, cache.kept.of(layer)) for count, layer in cache.layers())
    return round(
        sum(count * kept.token_bytes(layer) for count, layer, kept in growing if kept.most(layer) is None)
    )


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
    tests = {"window": _windowed, "budget": _budgeted}
    bounds = [name for name, bounded in tests.items() if bounded(before) or bounded(after)]
    if bounds:
        label = f"KV cache per token past the {' and the '.join(bounds)}"
        rows.append(Row(label, kv_growth(before), kv_growth(after), unit="bytes"))
    for tokens in LENGTHS:
        label = f"KV cache at {tokens // 1024}k tokens"
        rows.append(Row(label, kv_bytes(before, tokens), kv_bytes(after, tokens), unit="bytes"))
    return tuple(rows)


def _windowed(cache: CacheShape) -> bool:
    return any(slots is not None for slots in cache.slots)


def _budgeted(cache: CacheShape) -> bool:
    return any(layer.slots is None and cache.kept.of(layer).most(layer) for _, layer in cache.layers())
