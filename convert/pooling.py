"""Methods that pool keys and values alone: one tensor in, one tensor out, so that weights can be streamed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from convert.attention import AttentionShape
from convert.errors import ConvertError
from convert.families.family import Family
from convert.families.layouts.layout import Layout
from convert.heads import HeadShape
from convert.merging.method import Groups, MergeContext, Pool
from convert.tiers import Form
from convert.weights.checkpoint import Weights
from convert.weights.dtypes import FLOATS
from convert.weights.layout import Edit, Transposition

POOLED = {"k": "weight", "v": "weight", "k_bias": "bias", "v_bias": "bias", "k_norm": "norm"}
"""The parts of a layer that have one entry per KV head, and what a merge method calls them."""


@dataclass(frozen=True)
class Pooling:
    """How the heads of every layer are pooled."""

    pool: Pool
    groups: Groups
    seed: int
    initializer_range: float


@dataclass(frozen=True)
class HeadEdit:
    """A tensor whose key and value heads are pooled; queries in the same tensor stay as they are.

    Args:
        name: Its name.
        suffix: What follows the name of the attention module.
        layouts: How source and result store it.
        shapes: Sizes of a layer of source and result.
        pooling: What is done to the heads.
    """

    name: str
    suffix: str
    layouts: tuple[Layout, Layout]
    shapes: tuple[HeadShape, HeadShape]
    pooling: Pooling

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the result."""
        return self.layouts[1].size(self.suffix, self.shapes[1])

    def apply(self, tensor: Tensor) -> Tensor:
        """Pool the heads of the tensor.

        Args:
            tensor: As in the source.

        Returns:
            The tensor of the result, in the same dtype.

        Raises:
            ConvertError: the tensor holds NaN or infinity.
        """
        if not bool(tensor.isfinite().all()):
            raise ConvertError(f"tensor {self.name!r} holds NaN or infinity and cannot be merged")
        parts = self.layouts[0].split(self.suffix, tensor, self.shapes[0])
        pooled = {role: self._pool(role, part, alone=len(parts) == 1) for role, part in parts.items()}
        return self.layouts[1].join(self.suffix, pooled, self.shapes[1])

    def _pool(self, role: str, heads: Tensor, alone: bool) -> Tensor:
        if role not in POOLED:
            return heads
        pooling = self.pooling
        context = MergeContext(
            tensor=self.name if alone else f"{self.name}:{role}",
            kind=POOLED[role],
            seed=pooling.seed,
            initializer_range=pooling.initializer_range,
        )
        columns = heads if heads.dim() == 3 else heads[..., None]
        merged = pooling.pool(columns, pooling.groups, context)
        return merged if heads.dim() == 3 else merged[..., 0]


def plan_edits(
    family: Family,
    config: Mapping[str, Any],
    shape: AttentionShape,
    pooling: Pooling,
    form: Form,
    weights: Weights,
) -> tuple[dict[str, Edit], set[str]]:
    """List the tensors that change and those that go.

    Args:
        family: Family of the source.
        config: Its ``config.json``.
        shape: Its attention shape.
        pooling: What is done to every layer.
        form: Form of the result.
        weights: What the source's files hold.

    Returns:
        The edits by tensor name, and the names that the result does not have; none if all heads stay.

    Raises:
        ConvertError: a matrix that the result stores the other way round is not there, or not a float matrix.
    """
    edits: dict[str, Edit] = {}
    dropped: set[str] = set()
    if len(pooling.groups) == shape.kv_heads:
        return edits, dropped
    bare = family.is_bare(weights.tensors)
    shapes, layouts = (shape.layer(), shape.layer(len(pooling.groups))), (family.layout, form.layout)
    for layer in range(shape.layers):
        for suffix, roles in family.layout.roles(config).items():
            if POOLED.keys() & set(roles) or form.layout != family.layout:
                name = family.tensor(layer, suffix, bare)
                edits[name] = HeadEdit(name, suffix, layouts, shapes, pooling)
        for suffix in form.transposed:
            name = family.layer_tensor(layer, suffix, bare)
            edits[name] = _transposition(weights, name)
        dropped |= {family.layer_tensor(layer, suffix, bare) for suffix in form.dropped}
    return edits, dropped


def _transposition(weights: Weights, name: str) -> Transposition:
    entry = weights.tensors[name].entry if name in weights.tensors else None
    if entry is None or entry.dtype not in FLOATS or len(entry.shape) != 2:
        found = f"has type {entry.dtype}, shape {list(entry.shape)}" if entry else "is missing"
        raise ConvertError(f"tensor {name!r} {found}; it must be a matrix of {', '.join(FLOATS)}")
    return Transposition(entry.shape[::-1])
