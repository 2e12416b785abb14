"""Start every head afresh: the lower bound among the GQA paper's ablations."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.merging.method import Groups, Heads, MergeContext


def merge_random(heads: Heads, groups: Groups, context: MergeContext) -> NDArray[Any]:
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
        return np.full(shape, float(context.kind == "norm"), dtype=heads.dtype)
    digest = hashlib.sha256(f"{context.seed}:{context.tensor}".encode()).digest()
    # Named, not default_rng: which generator that is may change with numpy.
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    drawn = generator.standard_normal(shape, dtype=np.float32)
    drawn *= np.float32(context.initializer_range)
    return drawn.astype(heads.dtype, copy=False)
