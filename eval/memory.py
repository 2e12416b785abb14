"""Bytes of a key/value cache: by arithmetic from the config, and counted in a live cache."""

from dataclasses import dataclass
from typing import Any, Literal

LayerKind = Literal["full", "sliding", "ring"]


@dataclass(frozen=True)
class LayerCache:
    """What one layer remembers: everything, or ``sinks`` first and ``window`` last tokens."""

    kind: LayerKind
    window: int = 0
    sinks: int = 0

    @property
    def slots(self) -> int:
        """Tokens that a layer with a window holds at most."""
        return self.window + self.sinks

    def tokens(self, length: int) -> int:
        """Tokens whose storage the layer holds once ``length`` tokens have been seen, the last ones by
        decoding.

        A ring is allocated once, whatever the length. transformers' sliding layer joins the new token to the
        ``window - 1`` it kept, and the storage of that join stays: ``window`` tokens.
        """
        if self.kind == "full":
            return length
        return self.slots if self.kind == "ring" else min(length, self.slots)


@dataclass(frozen=True)
class CacheShape:
    """The cache of one sequence as its config describes it.

    Attributes:
        layers: One entry per layer; None where this arithmetic does not know the layers (``reason`` says
        why).
        kv_heads: KV heads of every layer.
        window: Tokens that the narrowest windowed layer sees, its own included; None for a dense model.
        sinks: First tokens that the windowed layers see as well.
    """

    layers: tuple[LayerCache, ...] | None
    kv_heads: tuple[int, ...]
    head_dim: int
    window: int | None
    sinks: int = 0
    reason: str = ""

    @property
    def windowed_layers(self) -> int:
        """Layers that do not keep the whole sequence."""
        return sum(layer.kind != "full" for layer in self.layers or ())

    def kv_bytes(self, length: int, element_bytes: int, batch: int = 1) -> int | None:
        """Bytes for ``batch`` sequences of ``length`` tokens; None where ``layers`` is None.

        Holds: equals what the live cache holds (tests/eval/test_memory.py).
        """
        if self.layers is None:
            return None
        rows = sum(
            layer.tokens(length) * heads for layer, heads in zip(self.layers, self.kv_heads, strict=True)
        )
        return 2 * batch * rows * self.head_dim * element_bytes


def cache_shape(config: Any) -> CacheShape:
    """Read the layers' caches from a config: ``attention_window`` first, then transformers' keys."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    count = config.num_hidden_layers
    each = config.per_layer_config if getattr(config, "is_heterogeneous", False) else [config] * count
    kv_heads = tuple(getattr(layer, "num_key_value_heads", None) or heads for layer in each)
    layers: list[LayerCache] = []
    window = getattr(config, "attention_window", None)
    if getattr(config, "kv_cache", None):
        size, sinks = (window["size"], window.get("sinks", 0)) if window else (None, 0)
        reason = "compressed caches are measured, not predicted"
        return CacheShape(None, kv_heads, head_dim, size, sinks, reason)
    if window:
        ring = LayerCache("ring", window["size"], window.get("sinks", 0))
        dense = set(window.get("global_layers") or ())
        layers = [LayerCache("full") if index in dense else ring for index in range(count)]
        return CacheShape(tuple(layers), kv_heads, head_dim, ring.window, ring.sinks)
    sliding = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    types = types or ["sliding_attention" if sliding else "full_attention"] * count
    unknown = sorted(set(types) - {"full_attention", "sliding_attention"})
    if unknown:
        return CacheShape(
            None, kv_heads, head_dim, None, reason=f"layers of type {', '.join(unknown)} are not predicted"
        )
    windowed = LayerCache("sliding", int(sliding or 0))
    layers = [windowed if kind == "sliding_attention" else LayerCache("full") for kind in types]
    return CacheShape(tuple(layers), kv_heads, head_dim, sliding if windowed in layers else None)


def held_bytes(cache: Any) -> int:
    """Bytes of storage that a live cache holds, also where it shows only a slice of it.

    Caches that count themselves (``nbytes``) are believed; of the others the storages behind every layer's
    keys and values are added up.
    """
    own = getattr(cache, "nbytes", None)
    if own is not None:
        return int(own() if callable(own) else own)
    storages: dict[int, int] = {}
    for layer in cache.layers:
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None)):
            if tensor is not None:
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
