"""What a merge method is: many source heads in, fewer heads out."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Groups = tuple[tuple[int, ...], ...]
"""For each new head, the source heads it replaces."""


@dataclass(frozen=True)
class MergeContext:
    """What a method may need to know beside the heads.

    Args:
        tensor: Name of the tensor being merged.
        kind: ``weight``, ``bias`` or ``norm`` (the weight of a key norm that differs by head).
        seed: Seed of the whole conversion.
        initializer_range: Standard deviation with which the family initialises its weights.
    """

    tensor: str
    kind: str
    seed: int
    initializer_range: float


@dataclass(frozen=True)
class MergeMethod:
    """One value of ``--merge``.

    Args:
        name: As on the command line.
        summary: One line for ``--help``.
        source: Where it is from.
        merge: Maps heads ``[K, D, E]`` and groups to ``[len(groups), D, E]`` in the same dtype; biases and
            norms have ``E`` of 1.
    """

    name: str
    summary: str
    source: str
    merge: Callable[[Tensor, Groups, MergeContext], Tensor]
