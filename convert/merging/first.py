"""Keep one head of every group: an ablation of the GQA paper."""

from torch import Tensor

from convert.merging.method import Groups, MergeContext


def merge_first(heads: Tensor, groups: Groups, context: MergeContext) -> Tensor:
    """Keep the first head of every group and drop the others.

    Args:
        heads: Projection rows, ``[K, D, E]``.
        groups: For each new head, the source heads it replaces.
        context: Not used.

    Returns:
        ``[len(groups), D, E]``, copies of source heads.

    Source: GQA, arXiv 2305.13245, section 3.3 ("First").
    """
    return heads[[group[0] for group in groups]]
