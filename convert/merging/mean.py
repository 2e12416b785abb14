"""Mean pooling of the heads of a group: the method of the GQA paper."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.merging.method import Groups, Heads, MergeContext


def merge_mean(heads: Heads, groups: Groups, context: MergeContext) -> NDArray[Any]:
    """Average the projections of every group of key or value heads.

    Args:
        heads: Projection rows, ``[K, D, E]``. Averaged in float64, rounded at the end.
        groups: For each new head, the source heads it replaces.
        context: Not used.

    Returns:
        ``[len(groups), D, E]`` in the dtype of ``heads``.

    Source: GQA, arXiv 2305.13245, section 2.1.
    Holds: duplicated heads come back bit for bit (tests/convert/test_merging.py).
    """
    merged = np.empty((len(groups), *heads.shape[1:]), dtype=heads.dtype)
    # One sum for all groups: fresh memory costs more than the arithmetic.
    total = np.empty(heads.shape[1:], dtype=np.float64)
    for new_head, group in enumerate(groups):
        total.fill(0)
        for head in group:
            total += heads[head]
        total /= len(group)
        merged[new_head] = total
    return merged
