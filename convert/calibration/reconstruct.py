"""``--reconstruct``: a few hundred steps on one layer's attention alone, until the stream is the source's."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Attend = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""Attention parts by role and hidden states ``[B, T, E]`` to the stream after attention ``[B, T, E]``."""

LEARNING_RATE = 0.6
"""First step of each number, as a share of its part's root mean square, times the root of the hidden size:
Adam moves every number alike, so what a step does to an output grows with the numbers that flow into it."""


@dataclass(frozen=True)
class Schedule:
    """How long and on what: ``steps`` of ``batch`` rows, drawn with ``seed``."""

    steps: int
    batch: int
    seed: int


def reconstruct(
    parts: Mapping[str, Tensor],
    attend: Attend,
    hidden: Tensor,
    target: Tensor,
    schedule: Schedule,
    tick: Callable[[], None],
) -> dict[str, Tensor]:
    """Train the projections of one layer to give the source's stream.

    Args:
        parts: Where to start, by role.
        attend: Runs the layer's attention with given parts.
        hidden: What the converted layer reads, ``[R, T, E]``.
        target: What the stream should be after it, ``[R, T, E]``.
        schedule: Steps, rows per step, seed.
        tick: Called after every step.

    Returns:
        The trained parts, float32; those it started with if training did not help.
    """
    start = {role: tensor.detach().float() for role, tensor in parts.items()}
    trained = {role: tensor.clone().requires_grad_() for role, tensor in start.items()}
    groups = [
        {"params": [tensor], "lr": _first_step(tensor, start["q"].shape[-1])} for tensor in trained.values()
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / schedule.steps)
    for rows in _draws(len(hidden), schedule):
        error = attend(trained, hidden[rows]) - target[rows]
        loss = error.square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        tick()
    result = {role: tensor.detach() for role, tensor in trained.items()}
    before, after = (_error(each, attend, hidden, target, schedule.batch) for each in (start, result))
    return result if after < before else start


def _first_step(tensor: Tensor, hidden_size: int) -> float:
    size = float(tensor.detach().square().mean().sqrt())
    return LEARNING_RATE * max(size, 1e-4) / math.sqrt(hidden_size)


@torch.no_grad()
def _error(parts: Mapping[str, Tensor], attend: Attend, hidden: Tensor, target: Tensor, batch: int) -> float:
    pairs = zip(hidden.split(batch), target.split(batch), strict=True)
    return sum(float((attend(parts, rows) - wanted).double().square().sum()) for rows, wanted in pairs)


def _draws(rows: int, schedule: Schedule) -> Sequence[Tensor]:
    generator = torch.Generator().manual_seed(schedule.seed)
    drawn: list[Tensor] = []
    while len(drawn) < schedule.steps:
        order = torch.randperm(rows, generator=generator)
        drawn += order.split(schedule.batch)
    return drawn[: schedule.steps]
