"""Methods that pool keys and values alone: one tensor in, one tensor out, so that weights can be streamed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from convert.errors import ConvertError
from convert.families.layouts.layout import Layout
from convert.grouping import adjacent_groups
from convert.heads import HeadShape
from convert.layerwise.job import LayerJob
from convert.merging.method import Groups, MergeContext, Pool

if TYPE_CHECKING:
    from convert.weights.arrays import StoredTensor

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

    def apply(self, tensor: StoredTensor) -> StoredTensor:
        """Pool the heads of the tensor.

        Args:
            tensor: As in the source.

        Returns:
            The tensor of the result, in the same dtype.

        Raises:
            ConvertError: the tensor holds NaN or infinity.
        """
        if not tensor.is_finite():
            raise ConvertError(f"tensor {self.name!r} holds NaN or infinity and cannot be merged")
        parts = self.layouts[0].split(self.suffix, tensor.numbers, self.shapes[0])
        pooled = {
            role: self._pool(role, replace(tensor, numbers=part), alone=len(parts) == 1).numbers
            for role, part in parts.items()
        }
        return replace(tensor, numbers=self.layouts[1].join(self.suffix, pooled, self.shapes[1]))

    def _pool(self, role: str, heads: StoredTensor, alone: bool) -> StoredTensor:
        from convert.weights.arrays import StoredHeads, store

        if role not in POOLED:
            return heads
        pooling = self.pooling
        context = MergeContext(
            tensor=self.name if alone else f"{self.name}:{role}",
            kind=POOLED[role],
            seed=pooling.seed,
            initializer_range=pooling.initializer_range,
        )
        numbers = heads.numbers
        columns = numbers if numbers.ndim == 3 else numbers[..., None]
        merged = pooling.pool(StoredHeads(replace(heads, numbers=columns)), pooling.groups, context)
        return store(merged if numbers.ndim == 3 else merged[..., 0], heads.dtype)


def plan_edits(job: LayerJob) -> dict[str, HeadEdit]:
    """List the tensors that pooling changes.

    Args:
        job: What is done to every layer, the same to each; its method pools.

    Returns:
        The edits by tensor name.
    """
    if job.method.pool is None:
        raise ValueError(f"method {job.method.name} does not pool")
    groups = adjacent_groups(job.shape.kv_heads, job.kv_heads[0])
    pooling = Pooling(job.method.pool, groups, job.seed, job.initializer_range)
    layouts, edits = (job.family.layout, job.layout), {}
    for layer in range(job.shape.layers):
        shapes = job.source_shape, job.result_shape(layer)
        for suffix, name in job.names(layer).items():
            if POOLED.keys() & set(layouts[0].roles()[suffix]) or layouts[0] != layouts[1]:
                edits[name] = HeadEdit(name, suffix, layouts, shapes, pooling)
    return edits
