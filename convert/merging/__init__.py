"""The merge methods. To add one: a function in a file of its own, and its record in the tuple below."""

from convert.errors import unknown
from convert.merging.first import FIRST
from convert.merging.mean import MEAN
from convert.merging.method import MergeMethod
from convert.merging.procrustes import PROCRUSTES
from convert.merging.random import RANDOM
from convert.merging.subspace import SUBSPACE

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
