"""One masked softmax over scores that are formed in memory: whatever a fused kernel cannot express."""

import torch
from torch import Tensor

from patches.attention.scoring import Scoring


def products(query: Tensor, key: Tensor) -> Tensor:
    """Every query against every key of its group, ``[B, K, G, T, N]``, not scaled.

    Args:
        query: ``[B, H, T, D]``, any float dtype.
        key: ``[B, K, N, D]``.
    """
    grouped = query.unflatten(1, (key.shape[1], -1))
    return torch.einsum("bkgtd,bknd->bkgtn", grouped, key)


def weigh(scores: Tensor, value: Tensor, seen: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Softmax of the scores over the keys that are seen, and the values under those weights.

    Args:
        scores: ``[B, K, G, T, N]`` from ``products``.
        value: ``[B, K, N, D]``.
        seen: ``[1 or B, T, N]`` bool.
        scoring: What the scores go through; its ``sink_query`` is not read.

    Returns:
        Output ``[B, H, T, D]`` in the dtype of ``value``, and weights ``[B, H, T, N]``. The softmax is in
        float32, or in float64 for float64 scores. A query that sees nothing (left padding) gets zeros.
    """
    seen = seen[:, None, None]
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scoring.scale
    if scoring.softcap is not None:
        wide = scoring.softcap * torch.tanh(wide / scoring.softcap)
    wide = wide.masked_fill(~seen, torch.finfo(wide.dtype).min)
    if scoring.sink_logits is not None:
        logits = scoring.sink_logits.to(wide.dtype).reshape(1, *wide.shape[1:3], 1, 1)
        wide = torch.cat([wide, logits.expand(*wide.shape[:-1], 1)], dim=-1)
    weights = torch.softmax(wide, dim=-1)[..., : scores.shape[-1]].masked_fill(~seen, 0.0).to(value.dtype)
    weights = torch.nn.functional.dropout(weights, p=scoring.dropout)
    output = torch.einsum("bkgtn,bknd->bkgtd", weights, value)
    return output.flatten(1, 2), weights.flatten(1, 2)
