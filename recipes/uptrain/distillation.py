"""The losses: divergence from the teacher's predictions, distance from its attention, and the usual one."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.utils.checkpoint import checkpoint

from recipes.uptrain.packing import IGNORED

CHUNK = 1024
"""Tokens whose log-probabilities over the vocabulary are in memory at a time."""


def distillation_losses(student: Tensor, teacher: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) and next-token cross-entropy.

    Args:
        student: Logits ``[B, T, V]``.
        teacher: Logits ``[B, T, V]``, or None for no KL (then 0).
        labels: ``[B, T]`` int64, -100 where a token does not count; position ``t`` predicts label ``t + 1``.

    Returns:
        Both means, in nats. Softmaxes are in float32, chunk by chunk, and are computed again in the backward
        pass.

    Holds: a teacher against itself gives 0, chunks give what one piece gives (tests/recipes/test_losses.py).
    """
    targets = labels[:, 1:].flatten()
    counted = targets != IGNORED
    count = counted.sum().clamp(min=1)
    rows = student[:, :-1].flatten(0, 1)[counted]
    known = None if teacher is None else teacher[:, :-1].flatten(0, 1)[counted]
    targets = targets[counted]
    kl = ce = student.new_zeros((), dtype=torch.float32)
    for begin in range(0, rows.shape[0], CHUNK):
        part = slice(begin, begin + CHUNK)
        reference = None if known is None else known[part]
        chunk_kl, chunk_ce = checkpoint(_sums, rows[part], reference, targets[part], use_reentrant=False)
        kl, ce = kl + chunk_kl, ce + chunk_ce
    return kl / count, ce / count


def _sums(student: Tensor, teacher: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    scores = log_softmax(student.float(), dim=-1)
    ce = cross_entropy(scores, targets, reduction="sum")
    if teacher is None:
        return scores.new_zeros(()), ce
    return kl_div(scores, log_softmax(teacher.float(), dim=-1), reduction="sum", log_target=True), ce


def attention_distance(student: Sequence[Tensor], teacher: Sequence[Tensor], counted: Tensor) -> Tensor:
    """How far the outputs of attention are from the teacher's, relative to their size; a mean over layers.

    Args:
        student: ``[B, T, E]`` for every layer.
        teacher: The same of the teacher.
        counted: ``[B, T]``, true where there is a token.

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
    return torch.stack(distances).mean()


class AttentionOutputs:
    """Collects what every attention module of a model gives out, layer by layer, pass after pass."""

    def __init__(self, model: nn.Module):
        """Watch a model.

        Args:
            model: Its attention modules are called ``self_attn``, as in every family that Headroom converts.
        """
        watched = {name: module for name, module in model.named_modules() if name.endswith(".self_attn")}
        self._names = list(watched)
        self._held: dict[str, Tensor] = {}
        for name, module in watched.items():
            module.register_forward_hook(partial(self._hold, name))

    def take(self) -> list[Tensor]:
        """``[B, T, E]`` of every layer in the last pass; forgets them."""
        held, self._held = self._held, {}
        return [held[name] for name in self._names]

    def _hold(self, name: str, _module: nn.Module, _args: object, output: tuple[Tensor, object]) -> None:
        # Under gradient checkpointing layers run again in the backward pass, the last one first: what that
        # leaves here is overwritten by the next pass, and the order is that of the names.
        self._held[name] = output[0]
