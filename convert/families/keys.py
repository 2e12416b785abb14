"""Reading the keys of a ``config.json``."""

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]
Switch = bool | tuple[str, bool]
"""True or False for the whole family, or the config key that decides and what holds where it is absent."""


def is_on(switch: Switch, config: Config) -> bool:
    """Say whether a switch is on in a config."""
    if isinstance(switch, bool):
        return switch
    key, default = switch
    return bool(config.get(key, default))


def sizes(
    hidden_size: int, layers: int, heads: int, kv_heads: int | None = None, head_dim: int | None = None
) -> dict[str, Any]:
    """Name the sizes that a family takes where a config is silent.

    Args:
        hidden_size: Hidden size.
        layers: Number of layers.
        heads: Query heads.
        kv_heads: KV heads; None: as many as query heads.
        head_dim: Numbers per head; None: the hidden size divided by the heads.
    """
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
    }


def look_up(config: Config, path: str) -> Any:
    """Read a key, or a key of a nested object when the path has a dot; None where it is absent."""
    value: Any = config
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
