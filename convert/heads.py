"""One layer's attention, head by head: what every family's tensors are split into and joined from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class HeadShape:
    """Sizes of one layer's attention: query heads ``H``, KV heads ``K``, head dim ``D``, hidden ``E``."""

    heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int

    @property
    def queries_per_head(self) -> int:
        """Query heads that share one KV head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class AttentionHeads:
    """The projections of one layer, split by head. Query head ``h`` reads KV head ``h // (H // K)``.

    Args:
        q: ``[H, D, E]``: a query is ``q @ x``.
        k: ``[K, D, E]``.
        v: ``[K, D, E]``.
        o: ``[H, E, D]``: the layer's output is the sum over heads of ``o @ (attention-weighted values)``.
        q_bias: ``[H, D]``, or None.
        k_bias: ``[K, D]``, or None.
        v_bias: ``[K, D]``, or None.
        o_bias: ``[E]``, or None.
        q_norm: ``[H, D]``, the weight of a query norm that differs by head, or None.
        k_norm: ``[K, D]``, the weight of a key norm that differs by head, or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    q_bias: Tensor | None = None
    k_bias: Tensor | None = None
    v_bias: Tensor | None = None
    o_bias: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None

    def parts(self) -> dict[str, Tensor]:
        """Give the tensors that are there, by role."""
        present = {field.name: getattr(self, field.name) for field in fields(self)}
        return {role: tensor for role, tensor in present.items() if tensor is not None}


@dataclass(frozen=True)
class Rotary:
    """How rotary positions turn the keys and queries of one layer.

    Args:
        dims: The first dimensions of a head that are turned; 0: none. The others stay as they are.
        interleaved: Whether dimension ``2i`` pairs with ``2i + 1``; if not, ``i`` with ``i + dims / 2``.
    """

    dims: int
    interleaved: bool = False
