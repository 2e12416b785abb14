"""Keep one head of every group: an ablation of the GQA paper."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.merging.method import Groups, Heads, MergeContext


def merge_first(heads: Heads, groups: Groups, context: MergeContext) -> NDArray[Any]:
    """Keep the first head of every group and drop the others.

    Args:
        heads: Projection rows, ``[K, D, E]``.
        groups: For each new head, the source heads it replaces.
        context: Not used.

    Returns:
        ``[len(groups), D, E]``, copies of source heads.

    Source: GQA, arXiv 2305.13245, section 3.3 ("First").
    """
    return np.stack([heads[group[0]] for group in groups])
