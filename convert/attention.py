"""The attention shape a config promises, checked against the tensors that are there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convert.errors import ConvertError
from convert.families.family import Family
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
    kv_heads = _size(family, config, "num_key_value_heads", heads)
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
    native = family.window
    if native is None or (native.switch is not None and not config.get(native.switch)):
        return (None,) * layers
    size = config.get("sliding_window", native.default_size)
    if size is None:
        return (None,) * layers
    if type(size) is not int or size < 1:
        raise ConvertError(f"config.json: sliding_window={size!r} is not a positive number of tokens")
    kinds = config.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != layers:
            raise ConvertError(f"config.json: layer_types must name all {layers} layers")
        return tuple(size if kind == "sliding_attention" else None for kind in kinds)
    key, default = native.first_layer or ("", 0)
    first = config.get(key, default)
    if type(first) is not int:
        raise ConvertError(f"config.json: {key}={first!r} is not a layer number")
    return tuple(size if layer >= first else None for layer in range(layers))


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
    rows = {"q": shape.heads, "k": shape.kv_heads, "v": shape.kv_heads}
    for layer in range(shape.layers):
        for projection, heads in rows.items():
            size = heads * shape.head_dim
            _check(weights, family.tensor(layer, projection), (size, shape.hidden_size))
            bias = family.tensor(layer, projection, "bias")
            if family.has_bias(config):
                _check(weights, bias, (size,))
            elif bias in weights.tensors:
                raise ConvertError(
                    f"tensor {bias!r} exists although config.json says there is no attention bias"
                )
        _check(weights, family.tensor(layer, "o"), (shape.hidden_size, shape.heads * shape.head_dim))
    extra = family.tensor(shape.layers, "k")
    if extra in weights.tensors:
        raise ConvertError(f"config.json has {shape.layers} layers, but tensor {extra!r} exists")
    return weights.tensors[family.tensor(0, "k")].entry.dtype


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
    value = config.get(key, family.defaults.get(key))
    if value is None:
        value = otherwise
    if type(value) is not int or not 1 <= value < 2**31:
        raise ConvertError(f"config.json: {key}={value!r} is not a positive integer")
    return value
