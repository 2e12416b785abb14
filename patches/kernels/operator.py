"""The kernels as operators of PyTorch, so that compiling a model meets one node and no break in the graph."""

from typing import Any

import torch
from torch import Tensor

from patches.copies import TAG
from patches.kernels.launch import Geometry, backward, empty_output, forward
from patches.kernels.tensors import dense


@torch.library.custom_op(f"headroom::{TAG}attend", mutates_args=())
def attend(
    query: Tensor, key: Tensor, value: Tensor, sink_query: Tensor | None, sink_logits: Tensor | None,
    sinks: int, skipped: int, window: int, first: int, scale: float, softcap: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output and log-sum-exp, as ``patches.kernels.launch.forward``; only the output has a gradient."""
    geometry = Geometry(sinks, skipped, window, first, scale, softcap)
    logits = None if sink_logits is None else sink_logits.float().contiguous()
    turned = None if sink_query is None else dense(sink_query)
    return forward(dense(query), dense(key), dense(value), turned, logits, geometry)


@attend.register_fake
def _(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return empty_output(query), query.new_empty(query.shape[:3], dtype=torch.float32)


@torch.library.custom_op(f"headroom::{TAG}attend_backward", mutates_args=())
def attend_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, sink_query: Tensor | None,
    sink_logits: Tensor | None, output: Tensor, lse: Tensor,
    sinks: int, skipped: int, window: int, first: int, scale: float, softcap: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of query, key, value, sink query and sink logits; those of what is None are empty."""
    geometry = Geometry(sinks, skipped, window, first, scale, softcap)
    turned = None if sink_query is None else dense(sink_query)
    d_query, d_key, d_value, d_turned, delta = backward(
        dense(grad), dense(query), dense(key), dense(value), turned, output, lse, geometry
    )
    d_logits = None
    if sink_logits is not None:
        weights = torch.exp(sink_logits.float()[:, None] - lse)
        d_logits = -(weights * delta).sum((0, 2)).to(sink_logits.dtype)
    return d_query, d_key, d_value, _or_empty(d_turned, query), _or_empty(d_logits, query)


@attend_backward.register_fake
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, sink_query: Tensor | None,
    sink_logits: Tensor | None, *_: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    wanted = [None if tensor is None else dense(tensor) for tensor in (query, key, value, sink_query)]
    grads = [None if tensor is None else torch.empty_like(tensor) for tensor in (*wanted, sink_logits)]
    return tuple(_or_empty(tensor, query) for tensor in grads)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors, ctx.geometry = inputs[:5], inputs[5:]
    ctx.save_for_backward(*tensors, *output)


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, output, lse = ctx.saved_tensors
    grads = attend_backward(grad, *inputs, output, lse, *ctx.geometry)
    wanted = [None if tensor is None else grad for tensor, grad in zip(inputs, grads, strict=True)]
    return *wanted, *[None] * len(ctx.geometry)


attend.register_autograd(_gradients, setup_context=_save)


def _or_empty(tensor: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0) if tensor is None else tensor
