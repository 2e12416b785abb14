"""How far away the sinks look, and the checkpoints that can only have them look as far as they are."""

from collections.abc import Mapping
from typing import Any

from convert.attention import AttentionShape
from convert.errors import ConvertError
from convert.families.family import Family
from convert.families.keys import look_up
from convert.window import Window

STEADY = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary scaling whose frequencies are the same at every length of text."""


def check_positions(
    window: Window | None, family: Family, config: Mapping[str, Any], shape: AttentionShape
) -> None:
    """Check that a checkpoint can count the distance to its sinks inside the cache, where that is asked for.

    Args:
        window: The checked window, or None.
        family: Family of the source.
        config: The source's ``config.json``.
        shape: Its attention shape.

    Raises:
        ConvertError: there are no sinks, or queries cannot be turned back for them.
    """
    if window is None or window.positions == "absolute":
        return
    if not window.sinks:
        raise ConvertError(f"positions={window.positions} counts distances to sinks (give --sinks)")
    obstacle = _obstacle(window, family, config, shape)
    if obstacle is not None:
        raise ConvertError(f"positions={window.positions}: {obstacle}; use absolute")


def _obstacle(window: Window, family: Family, config: Mapping[str, Any], shape: AttentionShape) -> str | None:
    if family.window is not None and family.window.kinds_differ:
        return f"each kind of layer in {family.model_type} has positions of its own"
    for layer in range(shape.layers):
        if layer in window.global_layers:
            continue
        rotary = family.rotary(config, layer)
        if not rotary.dims:
            return f"layer {layer} of this {family.model_type} has no rotary positions to count"
        if rotary.interleaved:
            return f"rotary pairs of {family.model_type} are neighbours, which windowed classes do not turn"
    for key in ("rope_scaling", "rope_parameters"):
        kind = look_up(config, f"{key}.rope_type") or look_up(config, f"{key}.type")
        if kind is not None and kind not in STEADY:
            return f"rotary scaling {kind!r} changes its frequencies with the length of the text"
    return None
