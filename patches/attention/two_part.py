"""Window and sinks under one softmax, each part computed by what is fastest for it, merged exactly.

The window part comes from a kernel for causal windows that gives its log-sum-exp; an epilogue of ``S`` dot
products per query puts the sinks into the same softmax. Backward hands the window kernel the merged output
and log-sum-exp, which makes its gradient that of the merged softmax; left to itself, FlashAttention would
treat the log-sum-exp as a constant, which is wrong by tens of percent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from patches.attention.parts import split
from patches.attention.scoring import Scoring
from patches.frame import Frame
from patches.kernels.plain_sinks import Sinks


@dataclass(frozen=True)
class WindowKernel:
    """Causal window attention that returns its log-sum-exp, and its backward.

    ``forward(query, key, value, window, scale) -> (output, lse, state)`` with ``[B, H, T, D]`` tensors
    aligned at the bottom right, ``window`` None for all of the past, and ``lse`` ``[B, H, T]`` float32,
    ``-inf`` on empty rows. ``backward(grad, query, key, value, output, lse, state, window, scale) -> (dq,
    dk, dv)``, where the output and the log-sum-exp may be those of a larger softmax.
    """

    forward: Callable[..., tuple[Tensor, Tensor, Any]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Epilogue:
    """The sink part: ``forward`` and ``backward`` of ``patches.kernels.plain_sinks``, or their equals."""

    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor | None]]


@dataclass(frozen=True)
class Call:
    """The numbers of one call, as its backward needs them too."""

    first: int
    window: int | None
    scale: float
    kernel: WindowKernel
    epilogue: Epilogue


def attend_parts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    frame: Frame,
    scoring: Scoring,
    kernel: WindowKernel,
    epilogue: Epilogue,
) -> Tensor:
    """Attend in two parts; arguments as ``patches.attention.eager.attend``, in any layout, rows not ragged.

    Args:
        query: ``[B, H, T, D]``.
        key: ``[B, K, N, D]`` in the layout of ``frame``.
        value: the same.
        frame: Where they stand; its rows begin at one column.
        scoring: Without softcap and dropout.
        kernel: For the window part.
        epilogue: For the sinks and their logits.

    Returns:
        ``[B, H, T, D]`` in the dtype of ``query``.

    Holds: equals one softmax, forward and backward, with any kernel (tests/patches/test_two_part.py).
    """
    assert isinstance(frame.first, int)
    window = frame.window
    if frame.layout == "slots":
        # The ring in any order, all of it visible; the sinks apart only where they are met differently.
        cut = 0 if scoring.sink_query is None else min(frame.sinks, key.shape[2])
        sink_key, sink_value, key, value = (
            key[:, :, :cut],
            value[:, :, :cut],
            key[:, :, cut:],
            value[:, :, cut:],
        )
        window = None
    else:
        parts = split(key, value, frame)
        assert isinstance(parts.first, int)
        sink_key, sink_value = parts.sink_keys, parts.sink_values
        key, value = parts.keys[:, :, parts.first :], parts.values[:, :, parts.first :]
    call = Call(frame.first, window, scoring.scale, kernel, epilogue)
    output = _TwoPart.apply(
        query, scoring.sink_query, sink_key, sink_value, key, value, scoring.sink_logits, call
    )
    assert isinstance(output, Tensor)
    return output


class _TwoPart(torch.autograd.Function):
    """The merged softmax and its gradient."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, sink_query: Tensor | None, sink_key: Tensor, sink_value: Tensor,
        key: Tensor, value: Tensor, logits: Tensor | None, call: Call,
    ) -> Tensor:  # fmt: skip
        # Queries among the sinks have no key in the window part.
        skipped = min(max(query.shape[2] - key.shape[2], 0), query.shape[2])
        part, lse, state = query[:, :, :0], query.new_empty(0, dtype=torch.float32), None
        if skipped < query.shape[2]:
            part, lse, state = call.kernel.forward(query[:, :, skipped:], key, value, call.window, call.scale)
        output = part
        if skipped or sink_key.shape[2] or logits is not None:
            met = query if sink_query is None else sink_query
            sinks = Sinks(met, sink_key, sink_value, logits, call.first, call.scale)
            output, lse = call.epilogue.forward(part, lse.reshape(part.shape[:3]), sinks)
        ctx.save_for_backward(query, sink_query, sink_key, sink_value, key, value, logits, output, lse)
        ctx.call, ctx.state, ctx.skipped = call, state, skipped
        # Compiled by torch 2.11, what a `to` or `contiguous` without effect returns has a gradient of zeros.
        return output.view_as(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, sink_query, sink_key, sink_value, key, value, logits, output, lse = ctx.saved_tensors
        call, late = ctx.call, slice(ctx.skipped, None)
        d_query, d_key, d_value = query[:, :, :0], torch.zeros_like(key), torch.zeros_like(value)
        if ctx.skipped < query.shape[2]:
            d_query, d_key, d_value = call.kernel.backward(
                grad[:, :, late], query[:, :, late], key, value, output[:, :, late], lse[:, :, late],
                ctx.state, call.window, call.scale,
            )  # fmt: skip
        d_sink_query, d_logits = None, None
        d_sink_key, d_sink_value = torch.zeros_like(sink_key), torch.zeros_like(sink_value)
        if ctx.skipped or sink_key.shape[2] or logits is not None:
            met = query if sink_query is None else sink_query
            sinks = Sinks(met, sink_key, sink_value, logits, call.first, call.scale)
            own = d_query if sink_query is None else None
            merged, d_sink_key, d_sink_value, d_logits = call.epilogue.backward(grad, output, lse, own, sinks)
            if sink_query is None:
                d_query = merged
            else:
                d_sink_query = merged
                d_query = torch.nn.functional.pad(d_query, (0, 0, ctx.skipped, 0))
        return d_query, d_sink_query, d_sink_key, d_sink_value, d_key, d_value, d_logits, None
