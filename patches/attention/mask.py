"""The one rule that every backend obeys."""

from torch import Tensor


def visible(query_positions: Tensor, key_positions: Tensor, window: int | None, sinks: int) -> Tensor:
    """Which keys each query sees: ``j <= i and (i - j < W or j < S)``, for tokens that exist.

    Args:
        query_positions: ``[..., T]`` int64, counted from the first real token of the row.
        key_positions: ``[..., N]`` int64, negative where there is no token.
        window: ``W``, the query's own token counted; None sees everything before it.
        sinks: ``S``.

    Returns:
        ``[..., T, N]`` bool.

    Source: StreamingLLM, arXiv 2309.17453, section 3.2.
    Holds: for every backend and layout (tests/patches/test_attention.py).
    """
    i, j = query_positions.unsqueeze(-1), key_positions.unsqueeze(-2)
    causal = (j >= 0) & (j <= i)
    return causal if window is None else causal & ((i - j < window) | (j < sinks))
