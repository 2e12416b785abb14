"""One tensor: for each KV head its queries, its key, its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convert.families.layouts.layout import Layout
from convert.heads import HeadShape

if TYPE_CHECKING:
    from torch import Tensor


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

    def unpack(self, roles: tuple[str, ...], rows: Tensor, shape: HeadShape) -> dict[str, Tensor]:
        """Take the heads out, KV head by KV head."""
        queries = shape.queries_per_head
        heads = rows.reshape(shape.kv_heads, queries + 2, shape.head_dim, *rows.shape[1:])
        parts = (heads[:, :queries].flatten(0, 1), heads[:, queries], heads[:, queries + 1])
        return dict(zip(roles, parts, strict=True))

    def pack(self, heads: list[Tensor], shape: HeadShape) -> Tensor:
        """Put each KV head's queries, key and value side by side."""
        from torch import cat

        q, k, v = heads
        grouped = q.reshape(shape.kv_heads, shape.queries_per_head, *q.shape[1:])
        return cat([grouped, k[:, None], v[:, None]], dim=1).flatten(0, 2)
