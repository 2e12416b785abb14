"""The merge methods. To add one: functions in a file of its own, and its record in the tuple below."""

from convert.errors import unknown
from convert.merging.method import MergeMethod, late

MEAN = MergeMethod(
    "mean",
    "average the heads of a group",
    "GQA, arXiv 2305.13245",
    pool=late("convert.merging.mean", "merge_mean"),
)
FIRST = MergeMethod(
    "first",
    "keep the first head of a group",
    "GQA, arXiv 2305.13245",
    pool=late("convert.merging.first", "merge_first"),
)
RANDOM = MergeMethod(
    "random",
    "new heads, drawn afresh (ablation)",
    "GQA, arXiv 2305.13245",
    pool=late("convert.merging.random", "merge_random"),
)
PROCRUSTES = MergeMethod(
    "procrustes",
    "rotate heads onto each other, then average",
    "arXiv 2412.20677",
    keys=late("convert.merging.procrustes", "merge_keys"),
    values=late("convert.merging.procrustes", "merge_values"),
)
SUBSPACE = MergeMethod(
    "subspace",
    "keep the directions that contribute most, adapting q and o",
    "this project, DESIGN section 4",
    keys=late("convert.merging.subspace", "merge_keys"),
    values=late("convert.merging.subspace", "merge_values"),
)
METHODS: dict[str, MergeMethod] = {
    method.name: method for method in (MEAN, FIRST, RANDOM, PROCRUSTES, SUBSPACE)
}


def find_method(name: str) -> MergeMethod:
    """Look up a merge method.

    Args:
        name: As on the command line.

    Returns:
        Its record.

    Raises:
        ConvertError: there is no method of this name.
    """
    if name not in METHODS:
        raise unknown("merge", name, METHODS)
    return METHODS[name]
