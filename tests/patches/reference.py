"""Window + sink attention said in the plainest way, in float64, over whole rows."""

import torch
from torch import Tensor


def reference_attention(
    query: Tensor, key: Tensor, value: Tensor, starts: list[int], window: int | None, sinks: int, scale: float
) -> Tensor:
    """``[B, H, N, D]`` float64 for ``[B, H, N, D]`` queries and ``[B, K, N, D]`` keys; zeros for padding."""
    batch, heads, length, _ = query.shape
    group = heads // key.shape[1]
    keys = key.double().repeat_interleave(group, dim=1)
    values = value.double().repeat_interleave(group, dim=1)
    scores = query.double() @ keys.transpose(2, 3) * scale
    seen = torch.zeros(batch, 1, length, length, dtype=torch.bool)
    for row, start in enumerate(starts):
        for i in range(start, length):
            for j in range(start, i + 1):
                seen[row, 0, i, j] = window is None or i - j < window or j - start < sinks
    weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1).nan_to_num(0.0)
    return weights @ values
