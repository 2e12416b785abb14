"""FlashAttention-2, the one inside PyTorch, for the window; an epilogue of ``S`` dot products per query for
the sinks.

The sinks are not a second FlashAttention call: its right window is dropped when it reaches the key length
(Dao-AILab/flash-attention issue 895). Backward hands FlashAttention the merged output and log-sum-exp, which
makes its gradient that of the merged softmax; left to itself it would treat the log-sum-exp as a constant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from patches.attention.documents import attend_documents
from patches.attention.parts import split
from patches.attention.scoring import Scoring
from patches.frame import Frame

HEAD_DIM_MAX = 256
HEAD_DIM_STEP = 8


@dataclass(frozen=True)
class WindowKernel:
    """Causal window attention that returns its log-sum-exp, and its backward.

    ``forward(query, key, value, window, scale) -> (output, lse, state)`` with ``[B, H, T, D]`` tensors
    aligned at the bottom right, ``window`` None for all of the past, and ``lse`` ``[B, H, T]`` float32,
    ``-inf`` on empty rows. ``backward(grad, query, key, value, output, lse, state, window, scale) -> (dq,
    dk, dv)``.
    """

    forward: Callable[..., tuple[Tensor, Tensor, Any]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


def missing() -> str | None:
    """Why this machine cannot run FlashAttention-2, or None."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    wanted = {"window_size_left", "window_size_right", "scale", "is_causal", "max_q"}
    schema = torch.ops.aten._flash_attention_forward.default._schema
    absent = sorted(wanted - {argument.name for argument in schema.arguments})
    return (
        f"torch {torch.__version__}'s _flash_attention_forward lacks {', '.join(absent)}" if absent else None
    )


def refusal(query: Tensor, frame: Frame, scoring: Scoring) -> str | None:
    """Why FlashAttention-2 cannot serve this call, or None."""
    if query.device.type != "cuda":
        return f"the tensors are on {query.device.type}"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"it needs float16 or bfloat16, not {str(query.dtype).removeprefix('torch.')}"
    if query.shape[-1] > HEAD_DIM_MAX or query.shape[-1] % HEAD_DIM_STEP:
        return f"head_dim={query.shape[-1]} is not a multiple of {HEAD_DIM_STEP} up to {HEAD_DIM_MAX}"
    if frame.ragged and (frame.layout != "whole" or frame.step.past):
        return "rows are padded"
    if scoring.softcap is not None:
        return "PyTorch's FlashAttention-2 has no softcap"
    if scoring.sink_logits is not None or scoring.sink_query is not None:
        return "not implemented"
    return "it has no attention dropout" if scoring.dropout else None


def attend(query: Tensor, key: Tensor, value: Tensor, frame: Frame, scoring: Scoring) -> tuple[Tensor, None]:
    """Attend on CUDA; arguments and output as ``patches.attention.eager.attend``, without the weights.

    Holds: the two parts and their gradient equal the reference, with any window kernel
    (tests/patches/test_flash.py), and FlashAttention-2 is such a kernel (the same file, marker ``gpu``).
    """
    if frame.layout == "slots":
        return FLASH.forward(query, key, value, None, scoring.scale)[0], None
    if frame.ragged:
        rows = frame.step.rows(frame.tokens)
        return attend_documents(attend, query, key, value, frame, scoring, rows), None
    return two_part(query, key, value, frame, scoring.scale, FLASH), None


def two_part(
    query: Tensor, key: Tensor, value: Tensor, frame: Frame, scale: float, kernel: WindowKernel
) -> Tensor:
    """Window part by ``kernel``, sink part by plain matrix products, merged exactly. ``[B, H, T, D]``."""
    parts = split(key, value, frame)
    assert isinstance(parts.first, int) and isinstance(frame.first, int)
    output = _TwoPart.apply(
        query, parts.sink_keys, parts.sink_values,
        parts.keys[:, :, parts.first :], parts.values[:, :, parts.first :],
        frame.first, frame.window, scale, kernel,
    )  # fmt: skip
    assert isinstance(output, Tensor)
    return output


class _TwoPart(torch.autograd.Function):
    """Window and sinks under one softmax, with the gradient of that softmax."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, sink_key: Tensor, sink_value: Tensor, key: Tensor, value: Tensor,
        first_query: int, window: int | None, scale: float, kernel: WindowKernel,
    ) -> Tensor:  # fmt: skip
        # Queries among the sinks have no key in the window part.
        skipped = min(max(query.shape[2] - key.shape[2], 0), query.shape[2])
        output, lse = (
            query.new_zeros(query.shape),
            query.new_full(query.shape[:3], -torch.inf, dtype=torch.float32),
        )
        state = None
        if skipped < query.shape[2]:
            part, part_lse, state = kernel.forward(query[:, :, skipped:], key, value, window, scale)
            output[:, :, skipped:], lse[:, :, skipped:] = part, part_lse
        if sink_key.shape[2]:
            scores = _sink_scores(query, sink_key, first_query, scale)
            merged = torch.logaddexp(lse, torch.logsumexp(scores, dim=-1).flatten(1, 2))
            weights = torch.exp(scores - _per_group(merged, sink_key.shape[1]).unsqueeze(-1))
            from_sinks = torch.einsum("bkgts,bksd->bkgtd", weights, sink_value.float()).flatten(1, 2)
            kept = torch.exp(lse - merged).unsqueeze(-1)
            output, lse = (kept * output.float() + from_sinks).to(query.dtype), merged
        ctx.save_for_backward(query, sink_key, sink_value, key, value, output, lse)
        ctx.state, ctx.skipped, ctx.first_query = state, skipped, first_query
        ctx.window, ctx.scale, ctx.kernel = window, scale, kernel
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, sink_key, sink_value, key, value, output, lse = ctx.saved_tensors
        grad, skipped = grads[0].contiguous(), ctx.skipped
        d_query = torch.zeros(query.shape, dtype=torch.float32, device=query.device)
        d_key, d_value = torch.zeros_like(key), torch.zeros_like(value)
        if skipped < query.shape[2]:
            late = slice(skipped, None)
            part, d_key, d_value = ctx.kernel.backward(
                grad[:, :, late], query[:, :, late], key, value,
                output[:, :, late], lse[:, :, late].contiguous(),
                ctx.state, ctx.window, ctx.scale,
            )  # fmt: skip
            d_query[:, :, late] = part.float()
        d_sink_key, d_sink_value = torch.zeros_like(sink_key), torch.zeros_like(sink_value)
        if sink_key.shape[2]:
            kv_heads = sink_key.shape[1]
            scores = _sink_scores(query, sink_key, ctx.first_query, ctx.scale)
            weights = torch.exp(scores - _per_group(lse, kv_heads).unsqueeze(-1))
            grouped = _per_group(grad.float(), kv_heads)
            delta = _per_group((grad.float() * output.float()).sum(-1), kv_heads).unsqueeze(-1)
            d_weights = torch.einsum("bkgtd,bksd->bkgts", grouped, sink_value.float())
            d_scores = weights * (d_weights - delta) * ctx.scale
            d_query += torch.einsum("bkgts,bksd->bkgtd", d_scores, sink_key.float()).flatten(1, 2)
            d_sink_key = torch.einsum("bkgts,bkgtd->bksd", d_scores, _per_group(query.float(), kv_heads))
            d_sink_value = torch.einsum("bkgts,bkgtd->bksd", weights, grouped)
        return (
            d_query.to(query.dtype), d_sink_key.to(sink_key.dtype), d_sink_value.to(sink_value.dtype),
            d_key, d_value,
            None, None, None, None,
        )  # fmt: skip


def _per_group(tensor: Tensor, kv_heads: int) -> Tensor:
    """``[B, H, ...]`` to ``[B, K, G, ...]``."""
    return tensor.unflatten(1, (kv_heads, -1))


def _sink_scores(query: Tensor, sink_key: Tensor, first_query: int, scale: float) -> Tensor:
    """``[B, K, G, T, S]`` float32, ``-inf`` for sinks after the query."""
    scores = (
        torch.einsum("bkgtd,bksd->bkgts", _per_group(query.float(), sink_key.shape[1]), sink_key.float())
        * scale
    )
    position = first_query + torch.arange(query.shape[2], device=query.device)
    late = torch.arange(sink_key.shape[2], device=query.device) > position[:, None]
    return scores.masked_fill(late, -torch.inf)


def _flash_forward(
    query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float
) -> tuple[Tensor, Tensor, Any]:
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    output, lse, seed, unused, _ = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, q.shape[1], k.shape[1], 0.0, q.shape[1] > 1, False, scale=scale, **_sides(window)
    )
    return output.transpose(1, 2), lse.masked_fill(lse == torch.inf, -torch.inf), (seed, unused)


def _flash_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, state: Any,
    window: int | None, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    g, q, k, v, out = (tensor.transpose(1, 2).contiguous() for tensor in (grad, query, key, value, output))
    grads = torch.ops.aten._flash_attention_backward(
        g, q, k, v, out, lse, None, None, q.shape[1], k.shape[1], 0.0, q.shape[1] > 1, *state, scale=scale,
        **_sides(window),
    )  # fmt: skip
    d_query, d_key, d_value = (tensor.transpose(1, 2) for tensor in grads)
    return d_query, d_key, d_value


def _sides(window: int | None) -> dict[str, int]:
    """FlashAttention counts the neighbours of a token, the mask counts the token too."""
    return {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}


FLASH = WindowKernel(_flash_forward, _flash_backward)
