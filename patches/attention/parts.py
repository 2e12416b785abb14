"""The keys of a call split into the two parts of the mask: the sinks, and the window after them.

The sink part is the positions ``[0, S)``, visible to every query at or after them. The window part is
everything from position ``S`` on, visible while ``0 <= i - j < W``. They share no key, and together they are
exactly the mask: one softmax over both, or two merged by their log-sum-exps, is exact.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from patches.frame import Frame


@dataclass(frozen=True)
class Parts:
    """The two parts of a ``whole`` or ``chunk`` call.

    Attributes:
        sink_keys: ``[B, K, S', D]``; column ``s`` is position ``s``. ``S'`` is at most ``S``.
        sink_values: the same.
        keys: ``[B, K, M, D]``; query ``t`` stands at column ``M - T + t``.
        values: the same.
        first: The first column of ``keys`` that belongs to the window part, an int or ``[B]``.
    """

    sink_keys: Tensor
    sink_values: Tensor
    keys: Tensor
    values: Tensor
    first: int | Tensor


def split(key: Tensor, value: Tensor, frame: Frame) -> Parts:
    """Split the keys and values of a ``whole`` or ``chunk`` call; views wherever rows are not ragged.

    Args:
        key: ``[B, K, N, D]``.
        value: ``[B, K, N, D]``.
        frame: Where they stand.
    """
    if frame.layout == "chunk":
        assert frame.window is not None
        # Column c of the rest is position first - (W - 1) + c.
        before = frame.sinks - frame.first + frame.window - 1
        first = max(before, 0) if isinstance(before, int) else before.clamp(min=0)
        cut = frame.sinks
        return Parts(key[:, :, :cut], value[:, :, :cut], key[:, :, cut:], value[:, :, cut:], first)
    sinks = 0 if frame.window is None else min(frame.sinks, key.shape[2])
    starts = frame.step.starts
    if starts is None:
        return Parts(key[:, :, :sinks], value[:, :, :sinks], key, value, sinks)
    columns = (starts[:, None] + torch.arange(sinks, device=key.device)).clamp(max=key.shape[2] - 1)
    index = columns[:, None, :, None].expand(-1, key.shape[1], -1, key.shape[3])
    return Parts(key.gather(2, index), value.gather(2, index), key, value, starts + sinks)
