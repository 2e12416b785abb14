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
    """A tensor whose key and value heads are pooled; queries in the same tensor stay as they are."""

    name: str
    suffix: str
    layout: Layout
    before: HeadShape
    after: HeadShape
    pooling: Pooling

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the result."""
        return self.layout.size(self.suffix, self.after)

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
        parts = self.layout.split(self.suffix, tensor, self.before)
        pooled = {role: self._pool(role, part, alone=len(parts) == 1) for role, part in parts.items()}
        return self.layout.join(self.suffix, pooled, self.after)

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
    family: Family, config: Mapping[str, Any], shape: AttentionShape, pooling: Pooling, bare: bool
) -> dict[str, HeadEdit]:
    """List the tensors that pooling changes.

    Args:
        family: Family of the source.
        config: Its ``config.json``.
        shape: Its attention shape.
        pooling: What is done to every layer.
        bare: Whether its tensor names leave out the base model.

    Returns:
        The edits by tensor name; none if there are as many groups as heads.
    """
    if len(pooling.groups) == shape.kv_heads:
        return {}
    before, after = shape.layer(), shape.layer(len(pooling.groups))
    edits = {}
    for layer in range(shape.layers):
        for suffix, roles in family.layout.roles(config).items():
            if POOLED.keys() & set(roles):
                name = family.tensor(layer, suffix, bare)
                edits[name] = HeadEdit(name, suffix, family.layout, before, after, pooling)
    return edits
