"""Next-token scores of packed contexts, in chunks that keep the vocabulary's memory small."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

LOGITS = 2**27
"""Logits that one pass may give (512 MiB in float32)."""
TOKENS_AT_A_TIME = 8192
"""Of all rows of one pass."""
CHUNK = 256
"""Positions whose float32 log-probabilities are alive at a time."""


def rows_at_a_time(length: int, vocabulary: int, batch_size: int | None) -> int:
    """Contexts per forward pass: ``TOKENS_AT_A_TIME`` tokens, and at most ``LOGITS`` logits."""
    if batch_size is not None:
        return batch_size
    return max(1, min(TOKENS_AT_A_TIME // length, LOGITS // (length * vocabulary)))


@torch.inference_mode()
def next_token_logits(model: Any, ids: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Logits for tokens ``1..T-1`` of each context, a stretch of positions at a time.

    Where all logits fit into ``LOGITS`` it is one pass without a cache. Longer contexts go through the cache
    that the model makes for itself, so that the logits of 128k tokens need not exist at once.

    Args:
        ids: ``[B, T]``.

    Yields:
        Positions of the predicted tokens, counted from token 1, and their logits ``[B, positions, V]``.

    Holds: the same logits either way (tests/eval/test_language.py).
    """
    batch, length = ids.shape
    stretch = max(CHUNK, LOGITS // (batch * model.config.get_text_config().vocab_size))
    if stretch >= length:
        yield slice(0, length - 1), model(input_ids=ids, use_cache=False).logits[:, :-1]
        return
    cache = None
    for start in range(0, length - 1, stretch):
        stop = min(start + stretch, length - 1)
        passed = model(input_ids=ids[:, start:stop], past_key_values=cache, use_cache=True)
        cache = passed.past_key_values
        yield slice(start, stop), passed.logits


def chunks(positions: int) -> Iterator[slice]:
    """Slices over the position axis."""
    for start in range(0, positions, CHUNK):
        yield slice(start, min(start + CHUNK, positions))


@torch.inference_mode()
def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood in nats of each next token.

    Args:
        logits: ``[B, T, V]``, any float dtype.
        targets: ``[B, T]``, the tokens that came.

    Returns:
        ``[B, T]``, float32.
    """
    losses = []
    for part in chunks(logits.shape[1]):
        scores = torch.log_softmax(logits[:, part].float(), dim=-1)
        losses.append(-scores.gather(-1, targets[:, part].unsqueeze(-1)).squeeze(-1))
    return torch.cat(losses, dim=1)


@torch.inference_mode()
def divergence(baseline: Tensor, logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """How far a model's next-token distribution is from the baseline's, per position.

    Args:
        baseline: ``[B, T, V]`` logits.
        logits: ``[B, T, V]`` logits of the model, on any device.
        k: Size of the sets of most likely tokens.

    Returns:
        KL(baseline || model) in nats, whether the most likely tokens agree, and the share of the baseline's
        ``k`` most likely tokens that are among the model's: three ``[B, T]`` tensors, float32.
    """
    kl, same, shared = [], [], []
    for part in chunks(logits.shape[1]):
        p = torch.log_softmax(baseline[:, part].float(), dim=-1)
        q = torch.log_softmax(logits[:, part].to(p.device).float(), dim=-1)
        kl.append((p.exp() * (p - q)).sum(-1))
        same.append((p.argmax(-1) == q.argmax(-1)).float())
        ours, theirs = q.topk(k).indices, p.topk(k).indices
        shared.append((theirs.unsqueeze(-1) == ours.unsqueeze(-2)).any(-1).float().mean(-1))
    return torch.cat(kl, dim=1), torch.cat(same, dim=1), torch.cat(shared, dim=1)
