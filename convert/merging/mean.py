"""Mean pooling of the heads of a group: the method of the GQA paper."""

import torch
from torch import Tensor

from convert.merging.method import Groups, MergeContext


def merge_mean(heads: Tensor, groups: Groups, context: MergeContext) -> Tensor:
    """Average the projections of every group of key or value heads.

    Args:
        heads: Projection rows, ``[K, D, E]``, any float dtype. Averaged in float64, rounded once.
        groups: For each new head, the source heads it replaces.
        context: Not used.

    Returns:
        ``[len(groups), D, E]`` in the dtype of ``heads``.

    Source: GQA, arXiv 2305.13245, section 2.1.
    Holds: duplicated heads come back bit for bit (tests/convert/test_merging.py).
    """
    merged = torch.empty(len(groups), *heads.shape[1:], dtype=heads.dtype)
    # One sum for all groups: fresh memory costs more than the arithmetic.
    total = torch.empty(heads.shape[1:], dtype=torch.float64)
    for new_head, group in enumerate(groups):
        total.zero_()
        for head in group:
            total += heads[head]
        merged[new_head] = total.div_(len(group))
    return merged
