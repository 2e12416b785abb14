"""The ``config.json`` of every form that a result can take."""

from collections.abc import Mapping, Sequence
from typing import Any

from convert.caches import KvCache
from convert.families.family import Family
from convert.families.forms import NativeWindow, Sibling
from convert.window import Window

REMOTE_MODULE = "headroom_windowed"
FULL, NATIVE_WINDOW, WINDOWED_LAYER = "full_attention", "sliding_attention", "sinks_and_window"
COMPRESSED_LAYER = "full_attention_compressed"
SIBLING_FORMAT = "5.17.0"
"""``transformers_version`` of moved configs: transformers takes older Ministrals' tokenizers for broken."""


def native_window(
    native: NativeWindow, config: Mapping[str, Any], window: Window, layers: int
) -> dict[str, Any]:
    """Write a window by the keys that the family itself has.

    Args:
        native: Those keys.
        config: The source's ``config.json``.
        window: The window, without sinks.
        layers: Number of layers.

    Returns:
        The config.
    """
    written = dict(config) | {"sliding_window": window.size}
    if native.switch is not None:
        written[native.switch] = True
    types = _layer_types(window, layers)
    if native.first_layer is not None:
        written[native.first_layer[0]] = types.index(NATIVE_WINDOW)
    if native.per_layer:
        written["layer_types"] = types
    return written


def sibling_window(
    family: Family, sibling: Sibling, config: Mapping[str, Any], window: Window, layers: int
) -> dict[str, Any]:
    """Write a window by moving to another architecture with the same weights.

    Args:
        family: Family of the source.
        sibling: Where it moves.
        config: The source's ``config.json``.
        window: The window, without sinks.
        layers: Number of layers.

    Returns:
        The config.
    """
    # Keys the source leaves to its family's defaults are written out: the sibling's defaults are others.
    explicit = {key: value for key, value in family.defaults.items() if value is not None} | dict(config)
    moved = {key: value for key, value in explicit.items() if key not in sibling.drops}
    return moved | {
        "model_type": sibling.model_type,
        "architectures": [f"{sibling.prefix}ForCausalLM"],
        "sliding_window": window.size,
        "layer_types": _layer_types(window, layers),
        "transformers_version": SIBLING_FORMAT,
    }


def own_class(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """Write a config for the classes that travel with the checkpoint."""
    prefix = f"Windowed{family.prefix}"
    return dict(config) | {
        "model_type": f"windowed_{family.model_type}",
        "architectures": [f"{prefix}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{REMOTE_MODULE}.{prefix}Config",
            "AutoModel": f"{REMOTE_MODULE}.{prefix}Model",
            "AutoModelForCausalLM": f"{REMOTE_MODULE}.{prefix}ForCausalLM",
        },
    }


def windowed(
    family: Family,
    config: Mapping[str, Any],
    kv_heads: Sequence[int],
    window: Window | None,
    cache: KvCache,
) -> dict[str, Any]:
    """Write what only the classes can do that travel with the checkpoint: sinks, heads by layer, compression.

    Args:
        family: Family of the source.
        config: The source's ``config.json``.
        kv_heads: KV heads, layer by layer; where they differ, ``num_key_value_heads`` is the largest number.
        window: The window, or None.
        cache: How tokens are kept.

    Returns:
        The config.
    """
    layers, most = len(kv_heads), max(kv_heads)
    written = own_class(family, family.write_kv_heads(config, most)) | {"attention_window": None}
    if family.window is not None:
        written |= _native_window(family, family.window, config, layers)
    # Kinds of layers that transformers does not know: code that ignores model_type is refused instead of
    # running densely. The windowed config classes drop them on reading and write them again on saving.
    if window is not None:
        written["attention_window"] = {
            "size": window.size,
            "sinks": window.sinks,
            "positions": window.positions,
            "global_layers": list(window.global_layers),
        }
        written["layer_types"] = _layer_types(window, layers, WINDOWED_LAYER)
    elif not cache.plain:
        written["layer_types"] = [COMPRESSED_LAYER] * layers
    if not cache.plain:
        written["kv_cache"] = cache.to_config()
    fewer = {str(layer): {"num_key_value_heads": n} for layer, n in enumerate(kv_heads) if n != most}
    return written | ({"per_layer_config": fewer} if fewer else {})


def _layer_types(window: Window, layers: int, bounded: str = NATIVE_WINDOW) -> list[str]:
    return [FULL if layer in window.global_layers else bounded for layer in range(layers)]


def _native_window(
    family: Family, native: NativeWindow, config: Mapping[str, Any], layers: int
) -> dict[str, Any]:
    """Write how the source itself slides, as a windowed class reads it."""
    kinds = [NATIVE_WINDOW if family.is_sliding(config, layer) else FULL for layer in range(layers)]
    if native.per_layer and NATIVE_WINDOW in kinds:
        # What a layer was says how far it may look, and in some families what positions it has.
        return {"sliding_window": family.window_size(config), "native_layer_types": kinds}
    # Left on, these make transformers build its own cache without sinks.
    return {"sliding_window": None} | ({} if native.switch is None else {native.switch: False})
