"""The flash attention that PyTorch has for CPUs; asked directly, it gives its log-sum-exp too."""

import torch
from torch import Tensor


def serves(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether it can take them, which it does not check itself: rows of another stride it would misread.

    Autocast does not know it, so that queries may come in another dtype than values.
    """
    inputs = (query, key, value)
    return all(
        each.device.type == "cpu" and each.dtype == query.dtype and each.stride(-1) == 1 for each in inputs
    )


def forward(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attend on a CPU, without a gradient.

    Args:
        query: ``[B, H, T, D]``, any float dtype.
        key: ``[B, K, N, D]``.
        value: the same.
        mask: Added to the scores, ``[1 or B, 1 or H, T, N]`` in the dtype of the query, or None.
        scale: Factor on the products.
        causal: Whether query ``t`` sees keys up to ``t`` only.

    Returns:
        Output ``[B, H, T, D]`` and log-sum-exp ``[B, H, T]``, float32 or wider. A query whose keys are all
        masked says 0, as if it had seen one key of score 0.

    Holds: equals one softmax (tests/patches/test_stored.py, tests/patches/test_sdpa_blocks.py).
    """
    both: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=mask, scale=scale
    )
    return both
