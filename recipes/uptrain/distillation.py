"""The losses: divergence from the teacher's predictions, distance from its attention, and the usual one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.utils.checkpoint import checkpoint

from recipes.uptrain.packing import IGNORED

SCORES = 2**25
"""Scores, tokens by vocabulary, that a loss makes at a time: 128 MiB in float32, of which it holds a few."""


@dataclass(frozen=True)
class Predictions:
    """What a model predicts at every token, as logits or as what its head makes them from.

    Attributes:
        states: ``[B, T, V]`` logits; with a ``head`` the ``[B, T, E]`` hidden states that it takes.
        vocabulary: ``V``.
        head: From ``[n, E]`` to ``[n, V]``; None where ``states`` are the logits.
    """

    states: Tensor
    vocabulary: int
    head: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def of_logits(cls, logits: Tensor) -> "Predictions":
        """Of logits ``[B, T, V]`` that are there already."""
        return cls(logits, logits.shape[-1])

    def logits(self, rows: Tensor) -> Tensor:
        """``[n, V]`` in float32 from some rows of ``states``."""
        return (rows if self.head is None else self.head(rows)).float()


@dataclass(frozen=True)
class TopTokens:
    """The most likely tokens of a teacher that is not in memory.

    Attributes:
        index: ``[B, T, k]`` integers, the tokens.
        logprobs: ``[B, T, k + 1]``, any float dtype: theirs, and that of all the others together, at the
            temperature of the loss.
    """

    index: Tensor
    logprobs: Tensor


def distillation_losses(
    student: Predictions,
    teacher: Predictions | TopTokens | None,
    labels: Tensor,
    top_k: int | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) and next-token cross-entropy.

    Args:
        student: Its predictions; gradients go to their states.
        teacher: Its predictions or the best of them, or None for no KL (then 0).
        labels: ``[B, T]`` int64, -100 where a token does not count; position ``t`` predicts label ``t + 1``.
        top_k: Compare the teacher's ``k`` most likely tokens and the sum of all the others, a coarser
            distribution whose KL is never above the full one; None, or the vocabulary and more: all tokens.
        temperature: ``t``: both distributions are softmaxes of logits over ``t``, and the KL is multiplied by
            its square. Cross-entropy knows none.

    Returns:
        Both means over tokens, in nats. Logits and softmaxes are made in float32, ``SCORES`` at a time, and
        again in the backward pass.

    Source: temperature and its square: Hinton et al., arXiv 1503.02531, section 2.
    Holds: a teacher against itself gives 0, chunks give what one piece gives, memory does not grow with
    tokens times vocabulary (tests/recipes/test_losses.py).
    """
    targets = labels[:, 1:].flatten()
    counted = targets != IGNORED
    size = max(1, SCORES // student.vocabulary)

    def pieces(states: Tensor) -> tuple[Tensor, ...]:
        # split, because its backward writes the gradient once; a slice would write all of it for every piece.
        return states[:, :-1].flatten(0, 1)[counted].split(size)

    taught = {None: (), Predictions: ("states",), TopTokens: ("index", "logprobs")}
    names = taught[None if teacher is None else type(teacher)]
    known = [pieces(getattr(teacher, name)) for name in names]

    def sums(rows: Tensor, targets: Tensor, *reference: Tensor) -> tuple[Tensor, Tensor]:
        logits = student.logits(rows)
        ce = cross_entropy(logits, targets, reduction="sum")
        if teacher is None:
            return ce.new_zeros(()), ce
        if isinstance(teacher, TopTokens):
            index, stored = reference
            # Stored in few bits they add up to one only nearly.
            wanted: Tensor = log_softmax(stored.float(), dim=-1)
            return _divergence(wanted, _coarse(logits / temperature, index.long())), ce
        with torch.no_grad():
            scores = teacher.logits(*reference) / temperature
        if top_k is None or top_k >= student.vocabulary:
            return _divergence(log_softmax(scores, dim=-1), log_softmax(logits / temperature, dim=-1)), ce
        index, wanted = top_tokens(scores, top_k)
        return _divergence(wanted, _coarse(logits / temperature, index)), ce

    kl = ce = torch.zeros((), device=labels.device)
    for rows, wanted, *reference in zip(
        pieces(student.states), targets[counted].split(size), *known, strict=True
    ):
        piece_kl, piece_ce = checkpoint(sums, rows, wanted, *reference, use_reentrant=False)
        kl, ce = kl + piece_kl, ce + piece_ce
    count = counted.sum().clamp(min=1)
    return kl * temperature**2 / count, ce / count


def top_tokens(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` most likely tokens and the log-probabilities of them and of all the others together.

    Args:
        scores: ``[..., V]`` logits, float32, over the temperature already; ``k < V``.
        k: How many.

    Returns:
        ``[..., k]`` int64 and ``[..., k + 1]`` float32.
    """
    index = scores.topk(k, dim=-1).indices
    return index, _coarse(scores, index)


def _coarse(scores: Tensor, index: Tensor) -> Tensor:
    """Log-probabilities ``[..., k + 1]`` of the tokens of ``index`` and of all the others together."""
    # One minus what the best have would be nothing but rounding errors where they have nearly all.
    others = scores.scatter(-1, index, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([scores.gather(-1, index), others], dim=-1) - scores.logsumexp(-1, keepdim=True)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """The sum of KL(teacher || student) over rows of log-probabilities."""
    return kl_div(student, teacher, reduction="sum", log_target=True)


def attention_distance(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    counted: Tensor,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """How far the outputs of attention are from the teacher's, relative to their size; a mean over layers.

    Args:
        student: ``[B, T, E]`` for every layer that is compared.
        teacher: The same of the teacher.
        counted: ``[B, T]``, true where there is a token.
        weights: Of each layer in the mean; None: all alike.

    Returns:
        A scalar, float32: 0 when they are the same, 1 when the student's are zero.

    Source: layer matching as in TinyBERT, arXiv 1909.10351, section 3.1; no projection, for the sizes are
    equal.
    """
    mask = counted.bool().unsqueeze(-1)
    distances = []
    for ours, theirs in zip(student, teacher, strict=True):
        wanted = theirs.float() * mask
        distances.append(((ours.float() - theirs.float()) * mask).square().sum() / wanted.square().sum())
    shares = torch.tensor(weights or [1.0] * len(distances), device=counted.device)
    return (torch.stack(distances) * shares).sum() / shares.sum()
