"""Next-token scores of packed contexts, in chunks that keep the vocabulary's memory small."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK = 256
"""Positions whose float32 log-probabilities are alive at a time."""


def rows_at_a_time(length: int, vocabulary: int, batch_size: int | None) -> int:
    """Contexts per forward pass: about 8k tokens, and at most 2**27 logits (512 MiB in float32)."""
    if batch_size is not None:
        return batch_size
    return max(1, min(8192 // length, 2**27 // (length * vocabulary)))


@torch.inference_mode()
def next_token_logits(model: Any, ids: Tensor) -> Tensor:
    """Logits for tokens ``1..T-1`` of each context: ``[B, T - 1, V]`` from ``[B, T]`` ids, without a "
    "cache."""
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[:, :-1]


def chunks(positions: int) -> Iterator[slice]:
    """Slices over the position axis."""
    for start in range(0, positions, CHUNK):
        yield slice(start, min(start + CHUNK, positions))


@torch.inference_mode()
def token_losses(logits: Tensor, ids: Tensor) -> Tensor:
    """Negative log-likelihood in nats of each next token.

    Args:
        logits: ``[B, T - 1, V]``, any float dtype.
        ids: ``[B, T]``.

    Returns:
        ``[B, T - 1]``, float32.
    """
    losses = []
    for part in chunks(logits.shape[1]):
        scores = torch.log_softmax(logits[:, part].float(), dim=-1)
        losses.append(-scores.gather(-1, ids[:, 1:][:, part].unsqueeze(-1)).squeeze(-1))
    return torch.cat(losses, dim=1)


@torch.inference_mode()
def divergence(baseline: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """KL(baseline || model) in nats and whether the most likely tokens agree, per position.

    Args:
        baseline: ``[B, T, V]`` logits.
        logits: ``[B, T, V]`` logits of the model, on any device.

    Returns:
        Two ``[B, T]`` tensors, float32.
    """
    kl, same = [], []
    for part in chunks(logits.shape[1]):
        p = torch.log_softmax(baseline[:, part].float(), dim=-1)
        q = torch.log_softmax(logits[:, part].to(p.device).float(), dim=-1)
        kl.append((p.exp() * (p - q)).sum(-1))
        same.append((p.argmax(-1) == q.argmax(-1)).float())
    return torch.cat(kl, dim=1), torch.cat(same, dim=1)
