"""The conversions that a budget compares: fewer KV heads, a window, a compressed cache, and all of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from convert.budget.model import Model
from convert.caches import KvCache, parse_cache
from convert.footprint import CacheShape
from convert.global_layers import parse_global_layers

SINKS = 4
"""First tokens that stay visible; four are enough (StreamingLLM, arXiv 2309.17453, table 2)."""
HEADS = (8, 4, 2, 1)
WINDOWS = (1024, 2048, 4096, 8192, 16384)
STRIDES = (2, 4, 8)
"""Every how many layers one stays global."""
ROUNDED = ("int8", "int4")
"""Policies that keep every token, in fewer bits."""
LOSSY = ("heavy-hitter", "merge", "low-rank")
"""Policies that lose tokens or directions for good."""
PAIRS = (("int8", "full"), ("int8", "int8"), ("int4", "full"), ("int4", "int8"), ("int4", "int4"))
"""Policies of global and of window layers that go together: what lasts longer is kept in fewer bits."""


@dataclass(frozen=True)
class Combination:
    """One conversion of a model, or none.

    Attributes:
        kv_heads: KV heads of every layer.
        window: Tokens that a windowed layer sees, its own included; None keeps attention as it is.
        sinks: First tokens that stay visible beside the window.
        global_layers: Layers that keep full attention, as ``--global-layers`` takes them.
        cache: How those keep their tokens, as ``--cache`` takes it.
        window_cache: The same for layers with a window.
    """

    kv_heads: int
    window: int | None = None
    sinks: int = 0
    global_layers: str = "none"
    cache: str = "full"
    window_cache: str = "full"

    def mechanisms(self, model: Model) -> tuple[str, ...]:
        """What of a model it changes: ``heads``, ``window``, ``cache``."""
        changed = {
            "heads": self.kv_heads != model.kv_heads,
            "window": self.window is not None,
            "cache": not self.kept.plain,
        }
        return tuple(mechanism for mechanism, found in changed.items() if found)

    def name(self, model: Model) -> str:
        """What it is called in a table."""
        parts = []
        if self.kv_heads != model.kv_heads:
            parts.append("MQA" if self.kv_heads == 1 else f"GQA-{self.kv_heads}")
        if self.window is not None:
            parts.append(f"window {self.window}" + (f" + {self.sinks} sinks" if self.sinks else ""))
        if self.window is not None and self.global_layers != "none":
            parts.append(f"global {self.global_layers}")
        parts += self._caches()
        return ", ".join(parts) or "as it is"

    def options(self, model: Model) -> str:
        """The options of ``python -m convert`` that make it."""
        words = []
        if self.kv_heads != model.kv_heads:
            words.append(f"--kv-heads {self.kv_heads}")
        if self.window is not None:
            words.append(f"--window {self.window} --sinks {self.sinks} --global-layers {self.global_layers}")
        if self.cache != "full":
            words.append(f"--cache {self.cache}")
        if self.window_cache != "full":
            words.append(f"--window-cache {self.window_cache}")
        return " ".join(words)

    def _caches(self) -> list[str]:
        if self.window is None or self.cache == self.window_cache:
            return [] if self.cache == "full" else [self.cache]
        where = {"global layers": self.cache, "windows": self.window_cache}
        return [f"{policy} in {title}" for title, policy in where.items() if policy != "full"]

    def slots(self, model: Model) -> tuple[int | None, ...]:
        """The most tokens that each layer's cache keeps, None for all."""
        if self.window is None:
            return model.windows
        kept = set(parse_global_layers(self.global_layers, model.layers))
        return tuple(None if layer in kept else self.window + self.sinks for layer in range(model.layers))

    @property
    def kept(self) -> KvCache:
        """How tokens are kept.

        Raises:
            ConvertError: a policy or a setting is unknown, or a value out of range.
        """
        return KvCache(parse_cache(self.cache, "global"), parse_cache(self.window_cache, "window"))

    def cache_shape(self, model: Model) -> CacheShape:
        """The cache, as it is allocated."""
        heads, kept = (self.kv_heads,) * model.layers, self.kept
        # Layers of ours are allocated at once or with room; those of transformers grow token by token.
        fewer = model.windowed and not model.grouped and self.kv_heads < model.kv_heads
        ours = self.sinks > 0 or not kept.plain or fewer
        return CacheShape(
            heads, model.head_dim, model.element_bytes, self.slots(model), ours, self.sinks, kept
        )

    def weight_bytes(self, model: Model) -> int:
        """Bytes of the weights, key and value projections with fewer heads."""
        gone = 2 * (model.kv_heads - self.kv_heads) * model.head_dim * model.hidden_size * model.layers
        return model.weight_bytes - gone * model.weight_bytes // model.parameters

    def receptive_field(self, model: Model, context: int) -> int:
        """Tokens over which the last one can learn anything, through all layers, at most ``context``.

        Each windowed layer passes on what lies a window back, a global layer reaches everything.

        Source: Mistral 7B, arXiv 2310.06825, section 2.
        """
        reach = 0
        for kept in self.slots(model):
            if kept is None:
                return context
            reach += kept - self.sinks
        return min(reach, context)

    def reach(self, model: Model) -> int | None:
        """The same without a text: None where it is unlimited."""
        unlimited = self.receptive_field(model, 2**62)
        return None if unlimited == 2**62 else unlimited


def as_it_is(model: Model) -> Combination:
    """No conversion."""
    return Combination(model.kv_heads)


def shown(model: Model) -> Iterator[Combination]:
    """The combinations of the table: each mechanism alone, then together."""
    heads = _heads(model)
    yield as_it_is(model)
    yield from (Combination(count) for count in heads)
    if not serves(model):
        return
    yield from (Combination(model.kv_heads, cache=policy) for policy in (*ROUNDED, *LOSSY))
    yield Combination(model.kv_heads, 4096)
    yield Combination(model.kv_heads, 4096, SINKS)
    yield from (Combination(count, cache=policy) for count in heads[:1] for policy in ROUNDED)
    if model.layers >= 4:
        windowed = [Combination(count, 4096, SINKS, "every:4") for count in (model.kv_heads, *heads)]
        yield from windowed
        for one in windowed[:2]:
            yield from (replace(one, cache=policy, window_cache=policy) for policy in ROUNDED)


def every(model: Model) -> Iterator[Combination]:
    """All combinations that a recommendation chooses from."""
    ours = serves(model)
    for count in (model.kv_heads, *_heads(model)):
        yield Combination(count)
        if not ours:
            continue
        yield from (Combination(count, cache=policy) for policy in (*ROUNDED, *LOSSY))
        for window in WINDOWS:
            bounded = Combination(count, window, SINKS)
            yield bounded
            yield from (replace(bounded, window_cache=policy) for policy in ROUNDED)
            for stride in (stride for stride in STRIDES if stride <= model.layers):
                mixed = replace(bounded, global_layers=f"every:{stride}")
                yield mixed
                yield from (replace(mixed, cache=one, window_cache=other) for one, other in PAIRS)


def serves(model: Model) -> bool:
    """Whether a class of ours can give it a window or a compressed cache.

    Its family has one, and every layer has full attention now: a layer that slides is not given another
    window here, and without one its cache cannot be compressed.
    """
    return model.windowed and all(own is None for own in model.windows)


def _heads(model: Model) -> list[int]:
    return [count for count in HEADS if count < model.kv_heads and model.kv_heads % count == 0]
