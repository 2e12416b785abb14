"""The reference: one masked softmax over everything the call was given. Returns the weights."""

import torch
from torch import Tensor

from patches.attention.explicit import products, weigh
from patches.attention.mask import visible
from patches.attention.scoring import Scoring
from patches.frame import Frame


def attend(
    query: Tensor, key: Tensor, value: Tensor, frame: Frame, scoring: Scoring
) -> tuple[Tensor, Tensor]:
    """Attend with a full mask; memory grows with ``T * N``.

    Args:
        query: ``[B, H, T, D]``, any float dtype.
        key: ``[B, K, N, D]`` in the layout of ``frame``.
        value: ``[B, K, N, D]``.
        frame: Where queries and keys stand.
        scoring: How products become weights.

    Returns:
        Output ``[B, H, T, D]`` in the dtype of ``query``, and weights ``[B, H, T, N]``. The softmax is in
        float32, or in float64 for float64 inputs. A query that sees nothing (left padding) gets zeros.
    """
    positions = frame.key_positions(key.shape[2], query.device)
    seen = visible(frame.query_positions(query.device), positions, frame.window, frame.sinks)
    scores = products(query, key)
    if scoring.sink_query is not None:
        is_sink = ((positions >= 0) & (positions < frame.sinks))[:, None, None, None]
        scores = torch.where(is_sink, products(scoring.sink_query, key), scores)
    return weigh(scores, value, seen, scoring)
