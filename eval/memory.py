"""Bytes of a key/value cache: by arithmetic from the config, and counted in a live cache."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from patches.cache.policies import KvCache
from patches.cache.policies.policy import Choice, Place, Tokens
from patches.config import WindowedConfigMixin
from patches.policy import WindowPolicy


@dataclass(frozen=True)
class LayerCache:
    """What one layer remembers.

    Attributes:
        place: Where it stands; its window, if it has one.
        choice: How a class of ours keeps its tokens; None: the layer is one of transformers.
    """

    place: Place
    choice: Choice | None = None

    def nbytes(self, tokens: int, kv_heads: int, head_dim: int, element_bytes: int) -> int:
        """Bytes of one sequence once ``tokens`` have been seen, the last ones by decoding.

        transformers' sliding layer joins the new token to the ``window - 1`` it kept, and the storage of that
        join stays: ``window`` tokens.
        """
        if self.choice is not None:
            return self.choice.nbytes(Tokens(tokens, kv_heads, head_dim, element_bytes, self.place))
        held = tokens if self.place.window is None else min(tokens, self.place.window)
        return 2 * held * kv_heads * head_dim * element_bytes


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
    def sinks(self) -> int:
        """First tokens that the windowed layers see as well."""
        return max((layer.place.sinks for layer in self.layers or ()), default=0)

    @property
    def windowed_layers(self) -> int:
        """Layers that do not see the whole sequence."""
        return sum(layer.place.window is not None for layer in self.layers or ())

    def kv_bytes(self, length: int, element_bytes: int, batch: int = 1) -> int | None:
        """Bytes for ``batch`` sequences of ``length`` tokens; None where ``layers`` is None.

        Raises:
            PolicyError: a budget of ``kv_cache`` has no room for what it must hold.

        Holds: equals what the live cache holds (tests/eval/test_memory.py).
        """
        if self.layers is None:
            return None
        return batch * sum(
            layer.nbytes(length, heads, self.head_dim, element_bytes)
            for layer, heads in zip(self.layers, self.kv_heads, strict=True)
        )


def cache_shape(config: Any) -> CacheShape:
    """Read the layers' caches from a config: those of a class of ours first, then transformers' keys."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    count = config.num_hidden_layers
    each = config.per_layer_config if getattr(config, "is_heterogeneous", False) else [config] * count
    kv_heads = tuple(getattr(layer, "num_key_value_heads", None) or heads for layer in each)
    window = getattr(config, "attention_window", None)
    if window or isinstance(config, WindowedConfigMixin):
        policy = WindowPolicy.from_config(window, count) if window else WindowPolicy.without_window(count)
        kept = KvCache.from_config(getattr(config, "kv_cache", None))
        places = _places([policy.window_of(layer) for layer in range(count)], policy.sinks)
        layers = tuple(LayerCache(place, kept.of(place.window)) for place in places)
        return CacheShape(layers, kv_heads, head_dim, policy.size)
    sliding = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    types = types or ["sliding_attention" if sliding else "full_attention"] * count
    unknown = sorted(set(types) - {"full_attention", "sliding_attention"})
    if unknown:
        return CacheShape(
            None, kv_heads, head_dim, None, f"layers of type {', '.join(unknown)} are not predicted"
        )
    windows = [int(sliding or 0) if kind == "sliding_attention" else None for kind in types]
    narrowest = sliding if "sliding_attention" in types else None
    return CacheShape(tuple(map(LayerCache, _places(windows, 0))), kv_heads, head_dim, narrowest)


def _places(windows: list[int | None], sinks: int) -> list[Place]:
    alike = Counter(window is None for window in windows)
    return [
        Place(layer, window, 0 if window is None else sinks, alike[window is None])
        for layer, window in enumerate(windows)
    ]


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
