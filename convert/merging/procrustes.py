"""Rotate the heads of a group onto each other before averaging them."""

import torch
from torch import Tensor

from convert.heads import Rotary
from convert.merging.inputs import Inputs
from convert.merging.rotation import join_rotary, split_rotary

ROUNDS = 20


def merge_values(v: Tensor, o: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Average value heads after the orthogonal matrices that bring them closest together.

    Args:
        v: Value projections, ``[n, D, X]``, float64.
        o: Output projections, ``[n, G, E, D]``; they undo the rotations.
        inputs: What the projections read.

    Returns:
        The average ``[D, X]`` and the outputs ``[n, G, E, D]``.

    Source: arXiv 2412.20677, the generalized orthogonal Procrustes problem.
    """
    turns = _align(inputs.seen(v))
    return (turns @ v).mean(dim=0), o @ turns.mT[:, None]


def merge_keys(k: Tensor, q: Tensor, rotary: Rotary, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Average key heads after one rotation per rotary frequency, the only ones that commute with positions.

    Args:
        k: Key projections, ``[n, D, X]``, float64.
        q: Query projections, ``[n, G, D, X]``; they turn along.
        rotary: Which dimensions turn; the others may be rotated by any orthogonal matrix.
        inputs: What the projections read.

    Returns:
        The average ``[D, X]`` and the queries ``[n, G, D, X]``.
    """
    turning_k, still_k = split_rotary(k, rotary)
    turning_q, still_q = split_rotary(q, rotary)
    # As [F, n, 1, X]: each frequency aligns rows of one complex number, an orthogonal matrix of size 1.
    frequencies = inputs.seen(turning_k.transpose(0, 1)[:, :, None])
    phases = torch.stack([_align(heads) for heads in frequencies])[..., 0, 0].T if rotary.dims else None
    if phases is not None:
        turning_k = turning_k * phases[..., None]
        turning_q = turning_q * phases[:, None, :, None]
    if still_k.shape[1]:
        turns = _align(inputs.seen(still_k))
        still_k, still_q = turns @ still_k, turns[:, None] @ still_q
    return (
        join_rotary(turning_k.mean(dim=0), still_k.mean(dim=0), rotary),
        join_rotary(turning_q, still_q, rotary),
    )


def _align(heads: Tensor) -> Tensor:
    """Orthogonal (or unitary) ``[n, D, D]`` that bring heads ``[n, D, X]`` closest to their average."""
    head_dim = heads.shape[1]
    turns = torch.eye(head_dim, dtype=heads.dtype, device=heads.device).repeat(len(heads), 1, 1)
    target = heads[0]
    for _ in range(ROUNDS):
        left, _, right = torch.linalg.svd(target @ heads.mH)
        turns = left @ right
        target = (turns @ heads).mean(dim=0)
    return turns
