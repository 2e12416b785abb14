"""Window + sink attention said in the plainest way, in float64, over whole rows. It shares no code with any
backend, so that a mistake in what they share shows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    sinks: int,
    scale: float,
    documents: Sequence[Sequence[int]] | None = None,
    softcap: float | None = None,
    sink_logits: Tensor | None = None,
    sink_query: Tensor | None = None,
) -> Tensor:
    """Attend over whole rows with every score in memory.

    Args:
        query: ``[B, H, N, D]``.
        key: ``[B, K, N, D]``.
        value: the same.
        window: ``W``; None for full causal attention.
        sinks: ``S``.
        scale: Factor on the products.
        documents: Of each row, the columns at which documents begin, ascending; columns before the first are
            padding. None: every row is one document.
        softcap: ``c`` of ``c * tanh(score / c)``.
        sink_logits: ``[H]``, one more logit in the denominator.
        sink_query: ``[B, H, N, D]``, what the sinks' keys meet in place of the query.

    Returns:
        ``[B, H, N, D]`` float64, zeros for padding; gradients reach every argument.
    """
    group = query.shape[1] // key.shape[1]
    keys = key.double().repeat_interleave(group, dim=1)
    values = value.double().repeat_interleave(group, dim=1)
    begins = documents or [[0]] * query.shape[0]
    masks = [_seen(starts, query.shape[2], window, sinks) for starts in begins]
    seen, is_sink = (torch.stack(pair).to(query.device)[:, None] for pair in zip(*masks, strict=True))
    scores = query.double() @ keys.transpose(2, 3)
    if sink_query is not None:
        scores = torch.where(is_sink, sink_query.double() @ keys.transpose(2, 3), scores)
    scores = scores * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen, -torch.inf)
    if sink_logits is not None:
        extra = sink_logits.double()[None, :, None, None].expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, extra], dim=-1)
    # A softmax over nothing is NaN; padding is to be zero, and so is its gradient.
    blind = ~seen.any(-1, keepdim=True)
    weights = torch.softmax(scores.masked_fill(blind, 0.0), dim=-1)[..., : key.shape[2]]
    return weights.masked_fill(blind, 0.0) @ values


def _seen(starts: Sequence[int], length: int, window: int | None, sinks: int) -> tuple[Tensor, Tensor]:
    """Of one row, which keys each query sees, and which of these are sinks: two of ``[N, N]`` bool."""
    column = torch.arange(length)
    begin = torch.full((length,), length)
    for start in starts:
        begin[start:] = start
    i, j = column[:, None], column[None, :]
    of_document = (j <= i) & (j >= begin[:, None]) & (i >= begin[:, None])
    is_sink = j - begin[:, None] < sinks if window is not None else torch.zeros_like(of_document)
    near = torch.ones_like(of_document) if window is None else i - j < window
    return of_document & (near | is_sink), of_document & is_sink
