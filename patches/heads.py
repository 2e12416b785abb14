"""A number of KV heads for each layer: ``per_layer_config``, which no stock Llama can be built from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from patches.policy import PolicyError

KV_HEADS = "num_key_value_heads"


def check_per_layer(entry: object, layers: int, heads: int) -> dict[int, dict[str, int]]:
    """Read and check the ``per_layer_config`` entry of a config.

    Args:
        entry: The value of the key, ``{"0": {"num_key_value_heads": 2}, ...}``; layers may be left out.
        layers: How many decoder layers the model has.
        heads: ``H``, query heads.

    Returns:
        The same with layers as numbers.

    Raises:
        PolicyError: a layer does not exist or is named twice, or is given anything but a number of KV heads
            that divides ``heads``.
    """
    if not isinstance(entry, Mapping) or not entry:
        raise PolicyError(
            f"per_layer_config={entry!r} must map layers to their {KV_HEADS}, such as "
            f'{{"0": {{"{KV_HEADS}": 1}}}}; leave it out where all layers are alike'
        )
    checked: dict[int, dict[str, int]] = {}
    for key, values in entry.items():
        layer = int(key) if str(key).isdecimal() else layers
        if layer >= layers or layer in checked:
            raise PolicyError(
                f"per_layer_config names layer {key!r}; name each of 0 to {layers - 1} only once"
            )
        if not isinstance(values, Mapping) or set(values) != {KV_HEADS}:
            raise PolicyError(
                f"per_layer_config[{key!r}]={values!r} must have the key {KV_HEADS} and no other; layers of "
                "a windowed model differ in nothing else"
            )
        kept = values[KV_HEADS]
        allowed = [count for count in range(1, heads + 1) if heads % count == 0]
        if type(kept) is not int or kept not in allowed:
            raise PolicyError(
                f"per_layer_config[{key!r}].{KV_HEADS}={kept!r} must divide the {heads} attention heads "
                f"(one of {', '.join(map(str, allowed))})"
            )
        checked[layer] = {KV_HEADS: kept}
    return checked


@contextmanager
def all_alike(config: Any) -> Iterator[None]:
    """Let a config name one number of KV heads, while transformers builds layers that it thinks are alike."""
    if not config.is_heterogeneous:
        yield
        return
    own = {
        index: {KV_HEADS: layer.num_key_value_heads} for index, layer in enumerate(config.per_layer_config)
    }
    config.per_layer_config = None
    try:
        yield
    finally:
        config.per_layer_config = own


def give_own_heads(decoder: Any) -> None:
    """Replace every layer's attention by one of the same class with the layer's own number of KV heads.

    Args:
        decoder: Built with its layers all alike, and with a ``per_layer_config`` in its config.
    """
    name, config = decoder.attention_name, decoder.config
    for index, (layer, own) in enumerate(zip(decoder.layers, config.per_layer_config, strict=True)):
        attention: Any = type(getattr(layer, name))(own, index)
        # Shared with the model, whose attention implementation may be set later.
        attention.config = config
        setattr(layer, name, attention)
