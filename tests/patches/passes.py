"""Rows fed to attention in several passes, through the cache of a window layer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from patches.cache.window import WindowLayer
from patches.frame import Frame, Step

Inputs = Sequence[Tensor | None]
"""Query, key, value, and what may be None: what the sinks meet in place of the query, sink logits."""


def in_passes(
    attend: Callable[[Inputs, Frame], Tensor],
    inputs: Inputs,
    sizes: Sequence[int],
    window: int,
    sinks: int,
    starts: Sequence[int] | None = None,
) -> Tensor:
    """``[B, H, N, D]`` from passes of ``sizes`` tokens; ``starts`` are the first real columns of the rows."""
    query, key, value, sink_query, logits = inputs
    layer, past, outputs = WindowLayer(window, sinks), 0, []
    for size in sizes:
        part = (slice(None), slice(None), slice(past, past + size))
        # Rows that have not begun yet count every column so far as padding.
        begun = torch.tensor(starts).clamp(max=past + size) if starts and any(starts) else None
        keys, values = layer.update(key[part], value[part], starts=begun)
        own = None if sink_query is None else sink_query[part]
        frame = Frame(Step(past, begun), size, window, sinks)
        outputs.append(attend([query[part], keys, values, own, logits], frame))
        past += size
    return torch.cat(outputs, dim=2)
