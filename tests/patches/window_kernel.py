"""A window kernel in plain products, in the place of FlashAttention-2 on machines without a GPU."""

import torch
from torch import Tensor

from patches.attention.two_part import WindowKernel


def scores_of(query: Tensor, key: Tensor, window: int | None, scale: float) -> Tensor:
    """``[B, H, T, M]`` aligned at the bottom right, ``-inf`` where the window or causality hides a key."""
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    rows = torch.arange(query.shape[2])[:, None] + key.shape[2] - query.shape[2]
    distance = rows - torch.arange(key.shape[2])
    seen = (distance >= 0) & (distance < (window or key.shape[2] + 1))
    return (query @ keys.transpose(2, 3) * scale).masked_fill(~seen, -torch.inf)


def forward(query, key, value, window, scale):
    scores = scores_of(query, key, window, scale)
    lse = torch.logsumexp(scores, dim=-1)
    values = value.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    return torch.exp(scores - lse[..., None]) @ values, lse.float(), None


def backward(grad, query, key, value, output, lse, _state, window, scale):
    """The gradient as FlashAttention computes it: from the output and log-sum-exp that it is given."""
    group = query.shape[1] // key.shape[1]
    weights = torch.exp(scores_of(query, key, window, scale) - lse[..., None])
    values = value.repeat_interleave(group, dim=1)
    d_scores = weights * (grad @ values.transpose(2, 3) - (grad * output).sum(-1, keepdim=True)) * scale
    d_query = d_scores @ key.repeat_interleave(group, dim=1)
    d_key = (d_scores.transpose(2, 3) @ query).unflatten(1, (-1, group)).sum(2)
    d_value = (weights.transpose(2, 3) @ grad).unflatten(1, (-1, group)).sum(2)
    return d_query, d_key, d_value


PLAIN_WINDOW = WindowKernel(forward, backward)
