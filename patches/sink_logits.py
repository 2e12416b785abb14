"""Learned sink logits: one more logit per query head in the softmax of a windowed layer, with no value.

A head that finds nothing in its window can give its weight to it instead of to tokens; gpt-oss is trained so.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization

from patches.policy import PolicyError, WindowPolicy

START = -6.0
"""A new logit: nearly no weight beside scores around zero, and enough of it for a gradient."""


class SinkLogits(nn.Module):
    """The logits of one layer, ``weight``: ``[H]``. A module, because ``peft`` trains whole modules."""

    def __init__(self, heads: int):
        """Begin at ``START``.

        Args:
            heads: ``H``, query heads.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.full((heads,), START))

    def initialize(self) -> None:
        """Begin anew, unless the logits came from a checkpoint."""
        initialization.constant_(self.weight, START)


def give_sink_logits(decoder: Any, policy: WindowPolicy) -> None:
    """Give every windowed layer its logits, as ``sink_logits`` of its attention.

    Args:
        decoder: A windowed one.
        policy: Which of its layers have a window.

    Raises:
        PolicyError: the architecture has such logits of its own.
    """
    for index, layer in enumerate(decoder.layers):
        attention: Any = getattr(layer, decoder.attention_name)
        if hasattr(attention, "sinks"):
            raise PolicyError(
                f"attention_window.sink_logits: {type(attention).__name__} has sink logits of its own"
            )
        if policy.window_of(index) is not None and not hasattr(attention, "sink_logits"):
            like = next(attention.parameters())
            attention.sink_logits = SinkLogits(decoder.config.num_attention_heads).to(like.device, like.dtype)


def add_sink_logits(model: Any) -> None:
    """Add logits to the windowed layers of a loaded model, and to its config.

    Args:
        model: A windowed model, with or without its head.

    Raises:
        PolicyError: it has no windowed layers, or logits of its own.
    """
    config = model.config
    policy = getattr(config, "window_policy", None)
    if policy is None or policy.size is None:
        raise PolicyError(
            f"sink logits need layers with a window of the windowed tier; {type(model).__name__} has none"
        )
    give_sink_logits(model.base_model, policy)
    config.attention_window = policy.to_config() | {"sink_logits": True}


def sink_logits_of(attention: nn.Module, policy: WindowPolicy, own: Tensor | None) -> Tensor | None:
    """The logits ``[H]`` of one call of attention, or None.

    Args:
        attention: The module that calls.
        policy: In force, which may leave the added logits out.
        own: What the architecture gives.
    """
    added = getattr(attention, "sink_logits", None) if policy.sink_logits else None
    return own if added is None else added.weight
