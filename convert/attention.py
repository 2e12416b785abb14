"""The attention shape a config promises, checked against the tensors that are there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convert.errors import ConvertError
from convert.families.family import Family
from convert.heads import HeadShape
from convert.weights.checkpoint import Weights
from convert.weights.dtypes import FLOATS


@dataclass(frozen=True)
class AttentionShape:
    """Sizes that every layer shares, and each layer's own window in tokens, None for full attention."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    windows: tuple[int | None, ...]

    def layer(self, kv_heads: int | None = None) -> HeadShape:
        """Give the sizes of one layer, with another number of KV heads if one is given."""
        return HeadShape(self.heads, kv_heads or self.kv_heads, self.head_dim, self.hidden_size)


def read_shape(family: Family, config: Mapping[str, Any]) -> AttentionShape:
    """Read the attention shape from a config as the family's own class would.

    Args:
        family: Record of the family.
        config: ``config.json``.

    Returns:
        The sizes, with the family's defaults where the config is silent.

    Raises:
        ConvertError: a size is not a positive integer, or heads do not divide.
    """
    layers = _size(family, config, "num_hidden_layers")
    heads = _size(family, config, "num_attention_heads")
    hidden_size = _size(family, config, "hidden_size")
    kv_heads = _positive("num_key_value_heads", family.read_kv_heads(config), heads)
    head_dim = _size(family, config, "head_dim", hidden_size // heads)
    if heads % kv_heads:
        raise ConvertError(
            f"config.json: num_attention_heads={heads} is not a multiple of num_key_value_heads={kv_heads}"
        )
    windows = read_windows(family, config, layers)
    return AttentionShape(layers, heads, kv_heads, head_dim, hidden_size, windows)


def read_windows(family: Family, config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """Read which layers of the source slide already.

    Args:
        family: Record of the family.
        config: ``config.json``.
        layers: Number of layers.

    Returns:
        For each layer its window in tokens, or None for full attention.

    Raises:
        ConvertError: the window or ``layer_types`` is malformed.
    """
    size = family.window_size(config)
    if size is None:
        return (None,) * layers
    if type(size) is not int or size < 1:
        raise ConvertError(f"config.json: sliding_window={size!r} is not a positive number of tokens")
    kinds = config.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or len(kinds) != layers):
        raise ConvertError(f"config.json: layer_types must name all {layers} layers")
    if kinds is None:
        # EXAONE 4 writes its pattern as text, and its layer_types beside it.
        for key, least in (("max_window_layers", 0), ("sliding_window_pattern", 1)):
            if type(config.get(key, least)) is not int or config.get(key, least) < least:
                raise ConvertError(f"config.json: {key}={config[key]!r} is not a number of layers")
    return tuple(size if family.is_sliding(config, layer) else None for layer in range(layers))


def check_tensors(family: Family, config: Mapping[str, Any], shape: AttentionShape, weights: Weights) -> str:
    """Check that every attention tensor the config promises is there with its shape, and no other.

    Args:
        family: Record of the family.
        config: ``config.json``.
        shape: What it promises.
        weights: What the files hold.

    Returns:
        The safetensors type of the key projections, the type in which the cache will be kept.

    Raises:
        ConvertError: a tensor is missing, unexpected, quantized, or of another shape.
    """
    bare = family.is_bare(weights.tensors)
    roles, possible = family.layout.roles(config), family.layout.roles()
    for layer in range(shape.layers):
        for suffix, size in family.layout.tensors(shape.layer(), config).items():
            _check(weights, family.tensor(layer, suffix, bare), size)
        for suffix in possible.keys() - roles.keys():
            name = family.tensor(layer, suffix, bare)
            if name in weights.tensors:
                kind = "attention bias" if suffix.endswith(".bias") else "norm of queries and keys"
                raise ConvertError(f"tensor {name!r} exists although config.json says there is no {kind}")
    keys = next(suffix for suffix in roles if "k" in roles[suffix])
    extra = family.tensor(shape.layers, keys, bare)
    if extra in weights.tensors:
        raise ConvertError(f"config.json has {shape.layers} layers, but tensor {extra!r} exists")
    return weights.tensors[family.tensor(0, keys, bare)].entry.dtype


def _check(weights: Weights, name: str, expected: tuple[int, ...]) -> None:
    if name not in weights.tensors:
        raise ConvertError(f"tensor {name!r} is missing from the weight files")
    entry = weights.tensors[name].entry
    if entry.dtype not in FLOATS:
        raise ConvertError(
            f"tensor {name!r} has type {entry.dtype}, a quantized checkpoint; allowed: {', '.join(FLOATS)}"
        )
    if entry.shape != expected:
        raise ConvertError(
            f"tensor {name!r} has shape {list(entry.shape)}, config.json says {list(expected)}"
        )


def _size(family: Family, config: Mapping[str, Any], key: str, otherwise: int | None = None) -> int:
    return _positive(family.aliases.get(key, key), family.value(config, key), otherwise)


def _positive(key: str, value: Any, otherwise: int | None) -> int:
    if value is None:
        value = otherwise
    if type(value) is not int or not 1 <= value < 2**31:
        raise ConvertError(f"config.json: {key}={value!r} is not a positive integer")
    return value
