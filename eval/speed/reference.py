"""The exact answer for some of the queries: a plain softmax in float64."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from eval.speed.records import Computes

SAMPLED = 16
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 2e-2}
"""Relative errors from which a result is wrong; float32 products may be rounded to tf32 on a GPU."""


@dataclass(frozen=True)
class Inputs:
    """One attention call whose query ``t`` stands at position ``past + t``.

    Attributes:
        query: ``[B, H, T, D]``.
        key: ``[B, K, past + T, D]``.
        value: the same.
        past: Tokens before this pass.
        window: ``W``.
        sinks: ``S``.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    past: int
    window: int
    sinks: int

    @property
    def scale(self) -> float:
        """Factor on the products."""
        return float(self.query.shape[-1] ** -0.5)

    def sampled(self) -> list[int]:
        """Queries to look at: around every boundary of the mask, and some others."""
        tokens, w, s = self.query.shape[2], self.window, self.sinks
        edges = {0, s - 1, s, w - 1, w, s + w - 1, s + w, tokens - 1}
        others = random.Random(tokens).sample(range(tokens), min(SAMPLED, tokens))
        return sorted({row for row in edges | set(others) if 0 <= row < tokens})


def exact(inputs: Inputs, computes: Computes, row: int, rows: list[int]) -> tuple[Tensor, list[Tensor]]:
    """Attention of some queries of one batch row.

    Args:
        inputs: The call.
        computes: Which keys they meet.
        row: In the batch.
        rows: Queries.

    Returns:
        ``[H, len(rows), D]`` float64, and the leaves that it depends on: queries ``[H, len(rows), D]``, keys
        and values ``[K, N, D]``.
    """
    query = inputs.query[row][:, rows].detach().double().requires_grad_()
    key, value = (tensor[row].detach().double().requires_grad_() for tensor in (inputs.key, inputs.value))
    i = torch.tensor(rows, device=query.device)[:, None] + inputs.past
    j = torch.arange(key.shape[1], device=query.device)
    seen = j <= i
    if computes != "dense":
        near = i - j < inputs.window
        seen &= near | (j < inputs.sinks) if computes == "window + sinks" else near
    outputs = []
    # One KV head at a time: at 128k tokens the scores of all of them would not fit everywhere.
    for head, group in enumerate(query.unflatten(0, (key.shape[0], -1))):
        scores = torch.einsum("gtd,nd->gtn", group, key[head]) * inputs.scale
        weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1)
        outputs.append(torch.einsum("gtn,nd->gtd", weights, value[head]))
    return torch.cat(outputs), [query, key, value]


def output_error(output: Tensor, inputs: Inputs, computes: Computes) -> float:
    """Relative error of ``[B, H, T, D]`` on the sampled queries of the first and the last batch row."""
    rows = inputs.sampled()
    errors = []
    for row in {0, output.shape[0] - 1}:
        want = exact(inputs, computes, row, rows)[0].detach()
        errors.append(relative(output[row][:, rows], want))
    return max(errors)


def gradient_error(output: Tensor, leaves: list[Tensor], inputs: Inputs, computes: Computes) -> float:
    """Relative error of the gradients of query, key and value, and of the output, on one batch row.

    The gradient that flows in is zero but for the sampled queries, so every other query must get zeros.

    Args:
        output: ``[B, H, T, D]``, with its graph.
        leaves: What it was computed from: query, key and value.
        inputs: The same numbers.
        computes: Which keys they meet.
    """
    rows, last = inputs.sampled(), output.shape[0] - 1
    want, sources = exact(inputs, computes, last, rows)
    flowing = torch.randn_like(want).to(output.dtype)
    grad = torch.zeros_like(output)
    grad[last, :, rows] = flowing
    got = torch.autograd.grad(output, leaves, grad)
    d_query, d_key, d_value = torch.autograd.grad(want, sources, flowing.double())
    spread = torch.zeros(inputs.query.shape[1:], dtype=torch.float64, device=want.device)
    spread[:, rows] = d_query
    pairs = zip(got, (spread, d_key, d_value), strict=True)
    return max(
        [relative(output[last][:, rows].detach(), want.detach()), *(relative(a[last], b) for a, b in pairs)]
    )


def relative(got: Tensor, want: Tensor) -> float:
    """``|got - want| / |want|`` in float64; NaN counts as infinite."""
    error = float((got.double() - want).norm() / want.norm())
    return error if error == error else float("inf")
