"""Try a window on a dense model without converting it: masks set layer by layer, for measurement only."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM


def window_mask(tokens: int, window: int, sinks: int) -> Tensor:
    """Additive mask in which query ``i`` sees key ``j`` iff ``j <= i and (i - j < window or j < sinks)``.

    Args:
        tokens: Length of the sequence.
        window: Visible tokens, the query's own included.
        sinks: First tokens, visible to all.

    Returns:
        ``[1, 1, tokens, tokens]``, float32: 0 where visible, the lowest float elsewhere.
    """
    query = torch.arange(tokens)[:, None]
    key = torch.arange(tokens)[None, :]
    seen = (key <= query) & ((query - key < window) | (key < sinks))
    return torch.zeros(1, 1, tokens, tokens).masked_fill(~seen, torch.finfo(torch.float32).min)


@contextmanager
def windowed(
    model: LlamaForCausalLM, window: int, sinks: int, global_layers: tuple[int, ...] = ()
) -> Iterator[None]:
    """Within the block every layer but the global ones attends through a window.

    Args:
        model: A float32 model; inputs must not be padded on the left.
        window: Visible tokens, the query's own included.
        sinks: First tokens, visible to all.
        global_layers: Layers left dense.
    """

    def narrow(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": window_mask(args[0].shape[1], window, sinks)}

    hooks = [
        layer.register_forward_pre_hook(narrow, with_kwargs=True)
        for index, layer in enumerate(model.model.layers)
        if index not in global_layers
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
