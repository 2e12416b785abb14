"""What the converter must know about one model family."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NativeWindow:
    """The keys by which a family's own ``config.json`` says that layers slide.

    Args:
        default_size: What the family takes when ``sliding_window`` is absent.
        switch: Key that must be true for the window to apply, if there is one.
        first_layer: Key naming the first layer that slides, if there is one, and its default.
        per_layer: Whether ``layer_types`` is understood; if not, every layer slides or none does.
    """

    default_size: int
    switch: str | None = None
    first_layer: tuple[str, int] | None = None
    per_layer: bool = False


@dataclass(frozen=True)
class Sibling:
    """Another native architecture with the same weights that also understands ``layer_types``.

    Args:
        model_type: Its ``model_type``.
        prefix: Prefix of its class names.
        lacks: Keys of this family that the sibling does not have; a config in which one is true cannot move.
        drops: Keys that mean nothing to the sibling and change nothing, removed when moving.
    """

    model_type: str
    prefix: str
    lacks: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One supported ``model_type``.

    Args:
        model_type: As in ``config.json``.
        prefix: Prefix of its class names: ``Llama`` in ``LlamaForCausalLM``.
        attention_bias: Whether q, k and v have biases; None: ``attention_bias`` in the config decides.
        defaults: Values the family takes for shape keys that a config leaves out.
        window: Its native sliding window, if it has one.
        sibling: Where windows go that this family's own config cannot say.
        attention: Prefix of a layer's attention tensors.
        note: What is special about it, for ``--help``.
    """

    model_type: str
    prefix: str
    attention_bias: bool | None
    defaults: Mapping[str, int | None]
    window: NativeWindow | None = None
    sibling: Sibling | None = None
    attention: str = "model.layers.{layer}.self_attn"
    note: str = ""

    def tensor(self, layer: int, projection: str, kind: str = "weight") -> str:
        """Name one tensor, such as ``model.layers.0.self_attn.k_proj.weight``."""
        return f"{self.attention.format(layer=layer)}.{projection}_proj.{kind}"

    def has_bias(self, config: Mapping[str, Any]) -> bool:
        """Say whether keys and values of this checkpoint have biases."""
        return (
            bool(config.get("attention_bias", False)) if self.attention_bias is None else self.attention_bias
        )
