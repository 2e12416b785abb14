"""What a merge method is: the heads of a group in, one key head and one value head out."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from convert.heads import Rotary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from convert.merging.inputs import Inputs

Groups = tuple[tuple[int, ...], ...]
"""For each new head, the source heads it replaces."""


class Heads(Protocol):
    """Heads ``[K, D, E]`` in float32 or float64: a numpy array, or what widens stored heads one at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(K, D, E)``."""

    @property
    def dtype(self) -> "np.dtype[Any]":
        """Type of the numbers."""

    def __getitem__(self, head: int, /) -> "NDArray[Any]":
        """One head, ``[D, E]``."""


Pool = Callable[[Heads, Groups, "MergeContext"], "NDArray[Any]"]
"""Heads and groups to ``[len(groups), D, E]`` in the same dtype; biases have ``E`` of 1."""

MergeKeys = Callable[["Tensor", "Tensor", Rotary, "Inputs"], "tuple[Tensor, Tensor]"]
"""Keys ``[n, D, X]`` and their queries ``[n, G, D, X]`` of a group, the rotary layout and what the
projections read to one key head ``[D, X]`` and the queries that go with it."""

MergeValues = Callable[["Tensor", "Tensor", "Inputs"], "tuple[Tensor, Tensor]"]
"""Values ``[n, D, X]`` and their outputs ``[n, G, E, D]`` of a group and what the projections
read to one value head and the outputs that go with it."""


@dataclass(frozen=True)
class MergeContext:
    """What a pooling method may need to know beside the heads.

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
    """One value of ``--merge``. It pools, touching keys and values alone, or it also adapts q and o.

    Args:
        name: As on the command line.
        summary: One line for ``--help``.
        source: Where it is from.
        pool: How keys and values are pooled, tensor by tensor; None for a method that adapts q and o.
        keys: How the keys of a group become one; with ``values`` if there is no ``pool``.
        values: How the values of a group become one.
    """

    name: str
    summary: str
    source: str
    pool: Pool | None = None
    keys: MergeKeys | None = None
    values: MergeValues | None = None


def late(module: str, name: str) -> Callable[..., Any]:
    """Stand for a function whose module is imported when it is first called.

    Methods compute with numpy or torch. A conversion is planned, and its untouched tensors are on their way,
    before the one is imported; the other takes as long as copying gigabytes and is for methods that need it.
    """

    def call(*arguments: Any) -> Any:
        return getattr(import_module(module), name)(*arguments)

    return call
