"""One tensor: for each KV head its queries, its key, its value."""

from __future__ import annotations

from dataclasses import dataclass

from convert.families.layouts.layout import Array, Layout, concatenate
from convert.heads import HeadShape


@dataclass(frozen=True)
class Interleaved(Layout):
    """Rows ``[K, G + 2, D]`` in one projection, as in GPT-NeoX and BLOOM (``G`` is 1) and Falcon.

    Args:
        name: Name of the projection.
    """

    name: str = "query_key_value"

    @property
    def projections(self) -> dict[str, tuple[str, ...]]:
        """The one projection."""
        return {self.name: ("q", "k", "v")}

    def unpack(self, roles: tuple[str, ...], rows: Array, shape: HeadShape) -> dict[str, Array]:
        """Take the heads out, KV head by KV head."""
        queries = shape.queries_per_head
        heads = rows.reshape(shape.kv_heads, queries + 2, shape.head_dim, *rows.shape[1:])
        q = heads[:, :queries].reshape(shape.heads, *heads.shape[2:])
        return dict(zip(roles, (q, heads[:, queries], heads[:, queries + 1]), strict=True))

    def pack(self, heads: list[Array], shape: HeadShape) -> Array:
        """Put each KV head's queries, key and value side by side."""
        q, k, v = heads
        grouped = q.reshape(shape.kv_heads, shape.queries_per_head, *q.shape[1:])
        joined = concatenate([grouped, k[:, None], v[:, None]], axis=1)
        return joined.reshape(-1, *joined.shape[3:])
