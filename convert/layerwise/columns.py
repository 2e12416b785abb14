"""Biases as one more column of the weights, so that the algebra of merging need not know them."""

from dataclasses import replace

import torch
from torch import Tensor

from convert.heads import AttentionHeads


def to_columns(heads: AttentionHeads) -> AttentionHeads:
    """Put the biases of q, k and v beside their weights.

    Args:
        heads: As in a checkpoint.

    Returns:
        float64 heads whose ``q``, ``k`` and ``v`` are ``[.., D, X]``: ``X = E + 1`` if any has a bias,
        else ``X = E``.
    """
    biased = any(bias is not None for bias in (heads.q_bias, heads.k_bias, heads.v_bias))

    def wide(rows: Tensor, bias: Tensor | None) -> Tensor:
        if not biased:
            return rows.double()
        column = torch.zeros_like(rows[..., 0]) if bias is None else bias
        return torch.cat([rows.double(), column.double()[..., None]], dim=-1)

    return replace(
        heads,
        q=wide(heads.q, heads.q_bias),
        k=wide(heads.k, heads.k_bias),
        v=wide(heads.v, heads.v_bias),
        o=heads.o.double(),
        q_bias=None,
        k_bias=None,
        v_bias=None,
    )


def from_columns(heads: AttentionHeads, like: AttentionHeads) -> AttentionHeads:
    """Undo ``to_columns``, rounding once.

    Args:
        heads: What ``to_columns`` gave, merged or not.
        like: Heads with the biases and dtypes that are wanted.

    Returns:
        Heads as in a checkpoint. A projection that had no bias has none: its column is zero, for merging only
        mixes rows of one projection.
    """
    found = {}
    for role in ("q", "k", "v"):
        rows, bias = getattr(heads, role), getattr(like, f"{role}_bias")
        hidden_size, dtype = getattr(like, role).shape[-1], getattr(like, role).dtype
        found[role] = rows[..., :hidden_size].to(dtype)
        if bias is not None:
            found[f"{role}_bias"] = rows[..., hidden_size].to(bias.dtype)
    return replace(heads, **found, o=heads.o.to(like.o.dtype))
