"""Choosing the most portable form of the result, and writing its ``config.json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convert.attention import AttentionShape
from convert.errors import ConvertError
from convert.families.family import Family, Sibling
from convert.request import Tier
from convert.window import Window

REMOTE_MODULE = "headroom_windowed"
WINDOWED_LAYER = "sinks_and_window"
SIBLING_FORMAT = "5.17.0"
"""``transformers_version`` of moved configs: transformers takes older Ministrals' tokenizers for broken."""


@dataclass(frozen=True)
class Form:
    """The form a result takes: its tier, why, the keys of its config, and the tokens each layer keeps."""

    tier: Tier
    reason: str
    config: dict[str, Any]
    slots: tuple[int | None, ...]


def choose_form(
    family: Family, config: Mapping[str, Any], shape: AttentionShape, kv_heads: int, window: Window | None
) -> Form:
    """Choose the most portable tier that expresses a request and write the config for it.

    Args:
        family: Family of the source.
        config: The source's ``config.json``.
        shape: Its attention shape.
        kv_heads: KV heads of the result.
        window: Checked window, or None.

    Returns:
        Tier, reason and config.

    Raises:
        ConvertError: the checkpoint is not a causal language model.
    """
    _check_causal(config)
    # The code a source ships is not carried over, so its auto_map must go too.
    kept = {key: value for key, value in config.items() if key not in ("auto_map", "_name_or_path")}
    kept["num_key_value_heads"] = kv_heads
    if window is None:
        reason = "only the number of KV heads changes; every engine loads it"
        if kv_heads == shape.kv_heads:
            reason = "heads and attention are the source's"
        return Form("native-gqa", reason, kept, shape.windows)
    slots = window.slots(shape.layers)
    if window.sinks:
        reason = "transformers has no native attention sinks"
        return Form("windowed", reason, _windowed(family, kept, window, shape.layers), slots)
    native = family.window
    if native is not None and (native.per_layer or not window.global_layers):
        reason = f"a window without sinks is native to {family.model_type}"
        return Form("native-window", reason, _native_window(family, kept, window, shape.layers), slots)
    sibling = family.sibling
    lacking = [key for key in sibling.lacks if config.get(key)] if sibling else []
    if sibling is None or lacking:
        why = (
            f"{sibling.model_type} has no {lacking[0]}"
            if sibling
            else f"{family.model_type} has no native window"
        )
        return Form("windowed", why, _windowed(family, kept, window, shape.layers), slots)
    reason = f"{sibling.model_type} is {family.model_type} with a native window per layer"
    return Form("native-window", reason, _move(family, sibling, kept, window, shape.layers), slots)


def _check_causal(config: Mapping[str, Any]) -> None:
    for architecture in config.get("architectures") or []:
        if not str(architecture).endswith("ForCausalLM"):
            raise ConvertError(f"architecture {architecture} is not a causal language model (...ForCausalLM)")


def _layer_types(window: Window, layers: int, bounded: str = "sliding_attention") -> list[str]:
    return ["full_attention" if layer in window.global_layers else bounded for layer in range(layers)]


def _native_window(family: Family, config: dict[str, Any], window: Window, layers: int) -> dict[str, Any]:
    native = family.window
    if native is None:
        raise ValueError(f"{family.model_type} has no native window")
    config = config | {"sliding_window": window.size}
    if native.switch is not None:
        config[native.switch] = True
    types = _layer_types(window, layers)
    if native.first_layer is not None:
        config[native.first_layer[0]] = types.index("sliding_attention")
    if native.per_layer:
        config["layer_types"] = types
    return config


def _move(
    family: Family, sibling: Sibling, config: dict[str, Any], window: Window, layers: int
) -> dict[str, Any]:
    # Keys the source leaves to its family's defaults are written out: the sibling's defaults are others.
    explicit = {key: value for key, value in family.defaults.items() if value is not None} | config
    moved = {key: value for key, value in explicit.items() if key not in sibling.drops}
    return moved | {
        "model_type": sibling.model_type,
        "architectures": [f"{sibling.prefix}ForCausalLM"],
        "sliding_window": window.size,
        "layer_types": _layer_types(window, layers),
        "transformers_version": SIBLING_FORMAT,
    }


def _windowed(family: Family, config: dict[str, Any], window: Window, layers: int) -> dict[str, Any]:
    prefix = f"Windowed{family.prefix}"
    config = config | {
        "model_type": f"windowed_{family.model_type}",
        "architectures": [f"{prefix}ForCausalLM"],
        "attention_window": {
            "size": window.size,
            "sinks": window.sinks,
            "positions": window.positions,
            "global_layers": list(window.global_layers),
        },
        "auto_map": {
            "AutoConfig": f"{REMOTE_MODULE}.{prefix}Config",
            "AutoModel": f"{REMOTE_MODULE}.{prefix}Model",
            "AutoModelForCausalLM": f"{REMOTE_MODULE}.{prefix}ForCausalLM",
        },
    }
    # Left on, these make transformers build its own cache without sinks.
    if family.window is not None:
        config["sliding_window"] = None
        if family.window.switch is not None:
            config[family.window.switch] = False
    # A kind of layer that transformers does not know: code that ignores model_type is refused instead of
    # running densely. The windowed config classes drop it on reading and write it again on saving.
    return config | {"layer_types": _layer_types(window, layers, WINDOWED_LAYER)}
