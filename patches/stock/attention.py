"""Attention of a stock model over a compressed cache: ``sdpa``, but for keys that it cannot read."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from patches.attention import sdpa, stored
from patches.attention.explicit import products, weigh
from patches.attention.scoring import Scoring
from patches.frame import Frame, Step

COMPRESSED = "compressed"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend to a compressed layer by ``patches.attention.stored``, to any other as transformers would.

    Args:
        module: The attention module.
        query: ``[B, H, T, D]``.
        key: ``[B, K, N, D]``, ``StoredTokens`` where the layer is compressed.
        value: As ``key``.
        attention_mask: ``[B, 1, T, N]`` bool or None; a compressed layer does not need it.
        scaling: Factor on the products.
        dropout: Of weights.
        softcap: As in Gemma 2, which ``sdpa`` of transformers leaves out.
        s_aux: ``[H]``, learned logits of sinks, likewise.
        options: What transformers passes besides.

    Returns:
        Output ``[B, T, H, D]``, and None for the weights.
    """
    scoring = Scoring(query.shape[-1] ** -0.5 if scaling is None else scaling, dropout, softcap, s_aux)
    # Not by its class: a checkpoint's own copy of this code has another one of the same name.
    held = getattr(key, "stored", None)
    if held is not None:
        frame = Frame(Step(held.past, held.starts), query.shape[2], None, 0)
        output = stored.attend(query, held, frame, scoring, sdpa.attend)
        return output.transpose(1, 2).contiguous(), None
    if scoring.plain:
        options |= {"scaling": scaling, "dropout": dropout}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if attention_mask is None:
        past = key.shape[2] - query.shape[2]
        shape = (1, 1, query.shape[2], key.shape[2])
        attention_mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril(past)
    output, _ = weigh(products(query, key), value, attention_mask[:, 0, :, : key.shape[2]], scoring)
    return output.transpose(1, 2).contiguous(), None


def register() -> None:
    """Make it known to transformers, with the mask of ``sdpa``."""
    AttentionInterface.register(COMPRESSED, attend)
    AttentionMaskInterface.register(COMPRESSED, sdpa_mask)
