"""Forms that a family's result can take without code of ours."""

from dataclasses import dataclass
from typing import Any

from convert.families.layouts.layout import Layout


@dataclass(frozen=True)
class NativeWindow:
    """The keys by which a family's own ``config.json`` says that layers slide.

    Args:
        default_size: What the family takes when ``sliding_window`` is absent.
        switch: Key that must be true for the window to apply, if there is one.
        first_layer: Key naming the first layer that slides, if there is one, and its default.
        period: Key of a number ``n``, empty if there is none, and its default: every ``n``-th does not slide.
        per_layer: Whether ``layer_types`` is understood; if not, every layer slides or none does.
        kinds_differ: Whether the kind of a layer also decides its positions, so that no layer can change it.
        broken: Why a window must not be written although the family reads one.
    """

    default_size: int | None = None
    switch: str | None = None
    first_layer: tuple[str, int] | None = None
    period: tuple[str, int] | None = None
    per_layer: bool = False
    kinds_differ: bool = False
    broken: str = ""


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
class Native:
    """A result with fewer KV heads, written for transformers as it is.

    Args:
        config: Its ``config.json``.
        layout: How its attention tensors are stored.
        reason: Why this form, one sentence.
        transposed: Weights of a layer, beside attention's, that it stores the other way round.
        dropped: Tensors of a layer that it does not have.
    """

    config: dict[str, Any]
    layout: Layout
    reason: str = "only the number of KV heads changes; every engine loads it"
    transposed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
