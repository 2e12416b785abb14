"""``sdpa`` for a single token that reads every stored KV head once."""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "grouped_sdpa"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as ``sdpa`` of transformers; with fewer KV heads, the queries of each are rows of one head.

    Args:
        module: The attention module.
        query: ``[B, H, T, D]``.
        key: ``[B, H, N, D]``, or ``[B, K, N, D]`` if ``T`` is 1.
        value: As ``key``.
        attention_mask: ``[B, 1 or H, T, N]`` or None.
        options: What transformers passes besides.

    Returns:
        Output ``[B, T, H, D]``, and None for the weights.
    """
    batch, heads, tokens, dim = query.shape
    if key.shape[1] == heads:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    rows = query.reshape(batch, key.shape[1], -1, dim)
    if attention_mask is not None and attention_mask.shape[1] > 1:
        attention_mask = attention_mask.reshape(batch, key.shape[1], -1, attention_mask.shape[-1])
    # Several rows look like a prompt to transformers, and would be given a causal mask.
    options["is_causal"] = False
    output, _ = sdpa_attention_forward(module, rows, key, value, attention_mask, **options)
    return output.transpose(1, 2).reshape(batch, tokens, heads, dim), None


def register() -> None:
    """Make it known to transformers, with the mask of ``sdpa``."""
    AttentionInterface.register(PACKED, attend)
    AttentionMaskInterface.register(PACKED, sdpa_mask)
