"""The conversions that a budget compares: fewer KV heads, a window, and both."""

from collections.abc import Iterator
from dataclasses import dataclass

from convert.budget.model import Model
from convert.footprint import CacheShape
from convert.global_layers import parse_global_layers

SINKS = 4
"""First tokens that stay visible; four are enough (StreamingLLM, arXiv 2309.17453, table 2)."""
HEADS = (8, 4, 2, 1)
WINDOWS = (1024, 2048, 4096, 8192, 16384)
STRIDES = (2, 4, 8)
"""Every how many layers one stays global."""


@dataclass(frozen=True)
class Combination:
    """One conversion of a model, or none.

    Attributes:
        kv_heads: KV heads of every layer.
        window: Tokens that a windowed layer sees, its own included; None keeps attention as it is.
        sinks: First tokens that stay visible beside the window.
        global_layers: Layers that keep full attention, as ``--global-layers`` takes them.
    """

    kv_heads: int
    window: int | None = None
    sinks: int = 0
    global_layers: str = "none"

    def name(self, model: Model) -> str:
        """What it is called in a table."""
        parts = []
        if self.kv_heads != model.kv_heads:
            parts.append("MQA" if self.kv_heads == 1 else f"GQA-{self.kv_heads}")
        if self.window is not None:
            parts.append(f"window {self.window}" + (f" + {self.sinks} sinks" if self.sinks else ""))
        if self.window is not None and self.global_layers != "none":
            parts.append(f"global {self.global_layers}")
        return ", ".join(parts) or "as it is"

    def options(self, model: Model) -> str:
        """The options of ``python -m convert`` that make it."""
        words = []
        if self.kv_heads != model.kv_heads:
            words.append(f"--kv-heads {self.kv_heads}")
        if self.window is not None:
            words.append(f"--window {self.window} --sinks {self.sinks} --global-layers {self.global_layers}")
        return " ".join(words)

    def slots(self, model: Model) -> tuple[int | None, ...]:
        """The most tokens that each layer's cache keeps, None for all."""
        if self.window is None:
            return model.windows
        kept = set(parse_global_layers(self.global_layers, model.layers))
        return tuple(None if layer in kept else self.window + self.sinks for layer in range(model.layers))

    def cache(self, model: Model) -> CacheShape:
        """The cache, as it is allocated."""
        heads = (self.kv_heads,) * model.layers
        # The tier with sinks allocates at once or with room; transformers' own layers grow token by token.
        return CacheShape(heads, model.head_dim, model.element_bytes, self.slots(model), bool(self.sinks))

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
    heads = [count for count in HEADS if count < model.kv_heads and model.kv_heads % count == 0]
    yield as_it_is(model)
    yield from (Combination(count) for count in heads)
    if not windowable(model):
        return
    yield Combination(model.kv_heads, 4096)
    yield Combination(model.kv_heads, 4096, SINKS)
    if model.layers >= 4:
        yield from (Combination(count, 4096, SINKS, "every:4") for count in (model.kv_heads, *heads))


def every(model: Model) -> Iterator[Combination]:
    """All combinations that a recommendation chooses from."""
    heads = [
        model.kv_heads,
        *(count for count in HEADS if count < model.kv_heads and model.kv_heads % count == 0),
    ]
    for count in heads:
        yield Combination(count)
        if windowable(model):
            for window in WINDOWS:
                for kept in (*(f"every:{stride}" for stride in STRIDES if stride <= model.layers), "none"):
                    yield Combination(count, window, SINKS, kept)


def windowable(model: Model) -> bool:
    """Whether every layer has full attention now: a layer that slides is not given another window here."""
    return all(own is None for own in model.windows)
