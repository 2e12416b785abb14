"""The model that a budget is made for: a checkpoint folder, a config on the hub, or bare shapes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.attention import read_shape
from convert.errors import ConvertError
from convert.families import find_family
from convert.json_file import read_json
from convert.weights.checkpoint import open_weights

VOCABULARY = 32_000
"""Of bare shapes, whose parameters are estimated where they are not given."""
ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Model:
    """What decides the costs of a model.

    Attributes:
        name: How the user calls it; None for bare shapes.
        layers: Decoder layers.
        heads: Query heads.
        kv_heads: KV heads of every layer.
        head_dim: Numbers per head.
        hidden_size: Width of the residual stream.
        inner_size: Width inside the feed-forward part.
        vocabulary: Tokens.
        parameters: Weights.
        weight_bytes: Bytes of the weights.
        element_bytes: Bytes of one number in the cache.
        windows: Each layer's own window in tokens, None for full attention.
        estimated: Whether the parameters are an estimate from the shapes.
        windowed: Whether its family has a class of ours.
        grouped: Whether the architecture itself can have fewer KV heads.
    """

    name: str | None
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    inner_size: int
    vocabulary: int
    parameters: int
    weight_bytes: int
    element_bytes: int
    windows: tuple[int | None, ...]
    estimated: bool = False
    windowed: bool = True
    grouped: bool = True


def read_model(name: str) -> Model:
    """Read a checkpoint folder, or a config from the hub without its weights.

    Args:
        name: A folder (it exists, or starts with ``.``, ``/`` or ``~``) or a hub id.

    Raises:
        ConvertError: there is no such folder or hub id, or its config cannot be read.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConvertError(f"model {name!r} has no config.json")
        weights = open_weights(folder)
        return _from_config(name, read_json(folder / "config.json"), weights.parameters, weights.nbytes)
    if folder.exists() or name.startswith((".", "/", "~")):
        raise ConvertError(f"model {name!r} is not a folder; give a checkpoint's folder or a hub id")
    return _from_hub(name)


def bare_model(layers: int, heads: int, kv_heads: int, head_dim: int, parameters: int | None) -> Model:
    """A model of which only the attention is known, two bytes per number.

    Args:
        layers: Decoder layers.
        heads: Query heads.
        kv_heads: KV heads, a divisor of them.
        head_dim: Numbers per head.
        parameters: Weights; None estimates them.

    Raises:
        ConvertError: KV heads do not divide the heads.
    """
    if heads % kv_heads:
        raise ConvertError(f"kv_heads={kv_heads} must divide the {heads} query heads")
    hidden = heads * head_dim
    # Feed-forward parts of 8 E^2 weights are common to plain ones (4 E) and gated ones (8/3 E).
    inner = 8 * hidden // 3
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    guess = layers * (attention + 3 * hidden * inner) + 2 * VOCABULARY * hidden
    count = parameters or guess
    return Model(
        None, layers, heads, kv_heads, head_dim, hidden, inner, VOCABULARY, count, 2 * count, 2,
        (None,) * layers, parameters is None,
    )  # fmt: skip


def _from_config(name: str, config: Mapping[str, Any], parameters: int, nbytes: int) -> Model:
    family = find_family(config)
    shape = read_shape(family, config)
    inner = next(
        (config[key] for key in ("intermediate_size", "ffn_dim", "n_inner") if config.get(key)), None
    )
    stored = str(config.get("dtype") or config.get("torch_dtype") or "")
    return Model(
        name,
        shape.layers,
        shape.heads,
        shape.kv_heads,
        shape.head_dim,
        shape.hidden_size,
        int(inner or 4 * shape.hidden_size),
        int(config.get("vocab_size") or VOCABULARY),
        parameters,
        nbytes,
        ELEMENT_BYTES.get(stored, 4 if nbytes >= 4 * parameters else 2),
        shape.windows,
        windowed=family.windowed,
        grouped=family.grouped,
    )


def _from_hub(name: str) -> Model:
    from huggingface_hub import get_safetensors_metadata, hf_hub_download

    try:
        config = read_json(Path(hf_hub_download(name, "config.json")))
        counts = get_safetensors_metadata(name).parameter_count
    # The hub client raises its own and its HTTP library's errors by turns; all mean: no such model.
    except Exception as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConvertError(f"model {name!r} is not a folder here and could not be fetched: {why}") from error
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}
    nbytes = sum(count * sizes.get(dtype, 4) for dtype, count in counts.items())
    return _from_config(name, config, sum(counts.values()), nbytes)
