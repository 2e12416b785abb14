"""Bytes of a key/value cache: by arithmetic from the config, and counted in a live cache."""

from dataclasses import dataclass
from typing import Any, Literal

from patches.cache.room import room
from patches.config import WindowedConfigMixin

LayerKind = Literal["full", "growing", "sliding", "ring"]


@dataclass(frozen=True)
class LayerCache:
    """What one layer remembers. ``slots`` is the window of a sliding layer, sinks + window of a ring."""

    kind: LayerKind
    slots: int = 0

    def tokens(self, length: int) -> int:
        """Tokens whose storage the layer holds once ``length`` tokens have been seen, the last ones by
        decoding.

        A ring is allocated once, whatever the length; a growing layer has ``room``. transformers' full layer
        holds what it has seen. Its sliding one joins the new token to the ``window - 1`` it kept, and the
        storage of that join stays: ``window`` tokens.
        """
        if self.kind == "full":
            return length
        if self.kind == "growing":
            return room(length)
        return self.slots if self.kind == "ring" else min(length, self.slots)


@dataclass(frozen=True)
class CacheShape:
    """The cache of one sequence as its config describes it.

    Attributes:
        layers: One entry per layer; None where this arithmetic does not know the layers (``reason`` says
        why).
        kv_heads: KV heads of every layer.
        window: Tokens that the narrowest windowed layer sees, its own included; None for a dense model.
    """

    layers: tuple[LayerCache, ...] | None
    kv_heads: tuple[int, ...]
    head_dim: int
    window: int | None
    reason: str = ""

    @property
    def windowed_layers(self) -> int:
        """Layers that do not keep the whole sequence."""
        return sum(layer.kind in ("sliding", "ring") for layer in self.layers or ())

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
        size = window["size"] if window else None
        return CacheShape(None, kv_heads, head_dim, size, "compressed caches are measured, not predicted")
    if window:
        ring = LayerCache("ring", window["size"] + window.get("sinks", 0))
        dense = set(window.get("global_layers") or ())
        layers = [LayerCache("growing") if index in dense else ring for index in range(count)]
        return CacheShape(tuple(layers), kv_heads, head_dim, window["size"])
    if isinstance(config, WindowedConfigMixin):
        return CacheShape((LayerCache("growing"),) * count, kv_heads, head_dim, None)
    sliding = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    types = types or ["sliding_attention" if sliding else "full_attention"] * count
    unknown = sorted(set(types) - {"full_attention", "sliding_attention"})
    if unknown:
        return CacheShape(
            None, kv_heads, head_dim, None, f"layers of type {', '.join(unknown)} are not predicted"
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
