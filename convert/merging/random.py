"""Start every head afresh: the lower bound among the GQA paper's ablations."""

import hashlib

import torch
from torch import Tensor

from convert.merging.method import Groups, MergeContext


def merge_random(heads: Tensor, groups: Groups, context: MergeContext) -> Tensor:
    """Draw new heads from the distribution with which the family initialises its weights; biases become zero,
    norms one.

    Args:
        heads: Projection rows, ``[K, D, E]``; only shape and dtype are used.
        groups: For each new head, the source heads it replaces.
        context: Seed, tensor name and standard deviation.

    Returns:
        ``[len(groups), D, E]`` in the dtype of ``heads``.

    Source: GQA, arXiv 2305.13245, section 3.3 ("Random").
    Holds: the numbers depend on seed and tensor name, not on sharding (tests/convert/test_sharding.py).
    """
    shape = (len(groups), *heads.shape[1:])
    if context.kind != "weight":
        return torch.full(shape, float(context.kind == "norm"), dtype=heads.dtype)
    digest = hashlib.sha256(f"{context.seed}:{context.tensor}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    drawn = torch.randn(shape, generator=generator, dtype=torch.float32)
    return (drawn * context.initializer_range).to(heads.dtype)
