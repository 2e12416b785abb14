"""Known model shapes, and the shape of a checkpoint's config."""

from dataclasses import dataclass, replace
from typing import Any

from eval.errors import EvalError, unknown_name


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that its speed depends on.

    Attributes:
        name: What it is called in the report.
        layers: Decoder layers.
        hidden: ``E``.
        intermediate: Hidden size of the MLP.
        heads: ``H``.
        kv_heads: ``K``.
        head_dim: ``D``.
        vocab: Rows of the output projection.
    """

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    def cache_bytes(self, tokens: int, batch: int, element_bytes: int) -> int:
        """Keys and values of one layer."""
        return 2 * batch * tokens * self.kv_heads * self.head_dim * element_bytes

    @property
    def weights_per_step(self) -> int:
        """Numbers that a decode step reads: every matrix, but of the input embedding only a row."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + self.hidden * self.vocab


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("llama-2-7b", 32, 4096, 11008, 32, 32, 128, 32000),
        Shape("llama-3-8b", 32, 4096, 14336, 32, 8, 128, 128256),
        Shape("mistral-7b", 32, 4096, 14336, 32, 8, 128, 32000),
        Shape("qwen2.5-7b", 28, 3584, 18944, 28, 4, 128, 152064),
        Shape("tinyllama-1.1b", 22, 2048, 5632, 32, 4, 64, 32000),
        Shape("tiny", 4, 256, 688, 8, 2, 64, 1024),
    )
}


def known_shape(name: str) -> Shape:
    """The shape of that name.

    Raises:
        EvalError: there is none; the nearest name and the list.
    """
    if name not in SHAPES:
        raise EvalError(unknown_name("shape", name, SHAPES))
    return SHAPES[name]


_SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")


def shape_of(config: Any, name: str) -> Shape:
    """The shape of a config of transformers.

    Raises:
        EvalError: it does not name the sizes of a decoder with attention, or its layers differ in them.
    """
    sizes: dict[str, Any] = {key: getattr(config, key, None) for key in _SIZES}
    heads = sizes["num_attention_heads"]
    sizes["num_key_value_heads"] = getattr(config, "num_key_value_heads", None) or heads
    wrong = [key for key, size in sizes.items() if not isinstance(size, int)]
    if wrong or getattr(config, "is_heterogeneous", False):
        raise EvalError(
            f"{name!r}: speed needs one {wrong[0] if wrong else 'num_key_value_heads'} for all layers"
        )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    layers, hidden, intermediate, heads, vocab, kv_heads = sizes.values()
    return Shape(name, layers, hidden, intermediate, heads, kv_heads, head_dim, vocab)


def changed(
    shape: Shape, heads: int | None, kv_heads: int | None, head_dim: int | None, layers: int | None
) -> Shape:
    """The shape with other numbers, where these are given.

    Raises:
        EvalError: query heads do not divide into groups, or more layers than the model has.
    """
    if layers is not None and layers > shape.layers:
        raise EvalError(f"--layers {layers}: {shape.name} has {shape.layers}")
    new = replace(
        shape,
        heads=heads or shape.heads,
        kv_heads=kv_heads or shape.kv_heads,
        head_dim=head_dim or shape.head_dim,
        layers=layers or shape.layers,
    )
    if new.heads % new.kv_heads:
        allowed = ", ".join(str(count) for count in range(1, new.heads + 1) if new.heads % count == 0)
        raise EvalError(f"{new.kv_heads} KV heads do not divide {new.heads} query heads (try {allowed})")
    return new
