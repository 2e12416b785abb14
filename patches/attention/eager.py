"""The reference: one masked softmax over everything the call was given. Returns the weights."""

import torch
from torch import Tensor

from patches.attention.mask import visible
from patches.frame import Frame


def attend(
    query: Tensor, key: Tensor, value: Tensor, frame: Frame, scale: float, dropout: float
) -> tuple[Tensor, Tensor]:
    """Attend with a full mask; memory grows with ``T * N``.

    Args:
        query: ``[B, H, T, D]``, any float dtype.
        key: ``[B, K, N, D]`` in the layout of ``frame``.
        value: ``[B, K, N, D]``.
        frame: Where queries and keys stand.
        scale: Factor on the scores.
        dropout: Probability of dropping a weight.

    Returns:
        Output ``[B, H, T, D]`` in the dtype of ``query``, and weights ``[B, H, T, N]``. The softmax is in
        float32, or in float64 for float64 inputs. A query that sees nothing (left padding) gets zeros.
    """
    batch, heads, tokens, dim = query.shape
    kv_heads, columns = key.shape[1], key.shape[2]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, tokens, dim)
    scores = torch.einsum("bkgtd,bknd->bkgtn", grouped, key) * scale
    seen = visible(
        frame.query_positions(query.device),
        frame.key_positions(columns, query.device),
        frame.window,
        frame.sinks,
    )[:, None, None]
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    weights = torch.softmax(wide.masked_fill(~seen, torch.finfo(wide.dtype).min), dim=-1)
    weights = weights.masked_fill(~seen, 0.0).to(query.dtype)
    weights = torch.nn.functional.dropout(weights, p=dropout)
    output = torch.einsum("bkgtn,bknd->bkgtd", weights, value)
    return output.reshape(batch, heads, tokens, dim), weights.reshape(batch, heads, tokens, columns)
