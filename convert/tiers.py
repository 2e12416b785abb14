"""Choosing the most portable form of the result."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from convert.attention import AttentionShape
from convert.caches import PLAIN, KvCache
from convert.configs import native_window, own_class, sibling_window, windowed
from convert.errors import ConvertError
from convert.families import FAMILIES
from convert.families.family import Family
from convert.families.layouts.layout import Layout
from convert.request import Tier
from convert.window import Window


@dataclass(frozen=True)
class Form:
    """The form a result takes.

    Args:
        tier: How portable it is.
        reason: Why it is that tier, one sentence.
        config: Its ``config.json``.
        slots: For each layer, the most tokens that its cache keeps; None keeps all.
        layout: How its attention tensors are stored.
        transposed: Weights of a layer, beside attention's, that it stores the other way round.
        dropped: Tensors of a layer that it does not have.
    """

    tier: Tier
    reason: str
    config: dict[str, Any]
    slots: tuple[int | None, ...]
    layout: Layout
    transposed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def check_own_class(family: Family, wish: str) -> None:
    """Check that there is a class of ours for what no class of transformers can do.

    Args:
        family: Family of the source.
        wish: The option, and in words what the family then cannot do.

    Raises:
        ConvertError: there is none.
    """
    if not family.windowed:
        able = _names(other.model_type for other in FAMILIES.values() if other.windowed)
        raise ConvertError(f"{wish}, neither natively nor in a class of ours; those of {able} can")


def check_no_slide(family: Family, shape: AttentionShape, option: str) -> None:
    """Check that no layer of the source slides, where the class of ours for the result would not.

    Raises:
        ConvertError: a layer does.
    """
    if any(own is not None for own in shape.windows):
        raise ConvertError(
            f"{option}: this {family.model_type} has a sliding window of its own, which the class for it "
            "does not have"
        )


def choose_form(
    family: Family,
    config: Mapping[str, Any],
    shape: AttentionShape,
    kv_heads: tuple[int, ...],
    window: Window | None,
    cache: KvCache,
) -> Form:
    """Choose the most portable tier that expresses a request and write the config for it.

    Args:
        family: Family of the source.
        config: The source's ``config.json``.
        shape: Its attention shape.
        kv_heads: KV heads of the result, layer by layer.
        window: Checked window, or None.
        cache: How the result keeps its tokens.

    Returns:
        Tier, reason and config.

    Raises:
        ConvertError: the checkpoint is not a causal language model, or no form expresses the request.
    """
    _check_causal(family, config)
    # The code a source ships is not carried over, so its auto_map must go too.
    kept = {key: value for key, value in config.items() if key not in ("auto_map", "_name_or_path")}
    if len(set(kv_heads)) > 1:
        reason = f"the layers of a native {family.model_type} cannot differ in their KV heads"
        return _windowed(family, kept, shape, kv_heads, window, cache, reason)
    if not cache.plain:
        reason = "transformers keeps every token as it is"
        return _windowed(family, kept, shape, kv_heads, window, cache, reason)
    if window is not None:
        return _choose_window(family, kept, shape, kv_heads, window)
    count = kv_heads[0]
    if count == shape.kv_heads:
        kept = family.write_kv_heads(kept, count) if family.grouped else kept
        return Form("native-gqa", "heads and attention are the source's", kept, shape.windows, family.layout)
    native = family.native(kept, count)
    if native is None:
        reason = f"{family.model_type} itself cannot have {count} KV heads"
        grouped = own_class(family, family.write_kv_heads(kept, count))
        return Form("windowed", reason, grouped, shape.windows, family.layout, dropped=family.buffers)
    return Form(
        tier="native-gqa",
        reason=native.reason,
        config=native.config,
        slots=shape.windows,
        layout=native.layout,
        transposed=native.transposed,
        dropped=native.dropped,
    )


def _windowed(
    family: Family,
    config: dict[str, Any],
    shape: AttentionShape,
    kv_heads: tuple[int, ...],
    window: Window | None,
    cache: KvCache,
    reason: str,
) -> Form:
    slots = shape.windows if window is None else window.slots(shape.layers)
    written = windowed(family, config, kv_heads, window, cache)
    return Form("windowed", reason, written, slots, family.layout, dropped=family.buffers)


def _choose_window(
    family: Family,
    config: dict[str, Any],
    shape: AttentionShape,
    kv_heads: tuple[int, ...],
    window: Window,
) -> Form:
    config = family.write_kv_heads(config, kv_heads[0]) if family.grouped else config
    slots = window.slots(shape.layers)
    obstacle = _obstacle(family, shape, window)
    native, sibling = family.window, family.sibling
    if native is not None and obstacle is None:
        reason = f"a window without sinks is native to {family.model_type}"
        written = native_window(native, config, window, shape.layers)
        return Form("native-window", reason, written, slots, family.layout)
    if sibling is not None and not window.sinks:
        lacking = [key for key in sibling.lacks if config.get(key)]
        if not lacking:
            reason = f"{sibling.model_type} is {family.model_type} with a native window per layer"
            written = sibling_window(family, sibling, config, window, shape.layers)
            return Form("native-window", reason, written, slots, family.layout)
        obstacle = f"{sibling.model_type} has no {lacking[0]}"
    if not family.windowed:
        able = _names(other.model_type for other in FAMILIES.values() if other.windowed)
        raise ConvertError(
            f"window={window.size}, sinks={window.sinks}: {obstacle}, and there is no windowed class for "
            f"{family.model_type}; there are for {able}"
        )
    return _windowed(family, config, shape, kv_heads, window, PLAIN, obstacle or "")


def _obstacle(family: Family, shape: AttentionShape, window: Window) -> str | None:
    """Say why a family's own config cannot express a window; None: it can."""
    native = family.window
    if window.sinks:
        return "transformers has no native attention sinks"
    if native is None:
        return f"{family.model_type} has no native window"
    if native.broken:
        return native.broken
    if window.global_layers and not native.per_layer:
        return f"{family.model_type} has one window for every layer, so none can be global"
    whole = tuple(layer for layer, own in enumerate(shape.windows) if own is None)
    if native.kinds_differ and whole != window.global_layers:
        return (
            f"in {family.model_type} the layers that do not slide have other positions, so exactly these "
            f"must be global: {_names(map(str, whole)) or 'none'}"
        )
    return None


def _check_causal(family: Family, config: Mapping[str, Any]) -> None:
    refusal = family.refusal(config)
    if refusal is not None:
        raise ConvertError(refusal)
    for architecture in config.get("architectures") or []:
        if not str(architecture).endswith(("ForCausalLM", "LMHeadModel")):
            raise ConvertError(f"architecture {architecture} is not a causal language model (...ForCausalLM)")


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
