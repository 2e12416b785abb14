"""What is known about what flows in a layer: second moments, or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

DAMPING = 1e-5
"""Share of the mean eigenvalue added to all: directions that a text never shows still count a little."""


@dataclass(frozen=True)
class Inputs:
    """What one layer's projections read: q, k and v (a 1 appended if there are biases), and then o.

    Args:
        root: ``[X, X]`` with ``root @ root.T`` the second moment of the layer's input, float64; None: the
            identity.
        attended: ``[H, D, D]``, the second moment of what attention makes of each query head's values; None:
            as if every token attended to one token, any.
    """

    root: Tensor | None = None
    attended: Tensor | None = None

    def seen(self, rows: Tensor) -> Tensor:
        """Weigh projection rows ``[..., X]`` so that plain norms measure them on these inputs."""
        if self.root is None:
            return rows
        if rows.is_complex():
            return torch.complex(rows.real @ self.root, rows.imag @ self.root)
        return rows @ self.root

    def of(self, group: Sequence[int], kv_heads: int) -> "Inputs":
        """Keep what belongs to some KV heads, ``attended`` as ``[n, G, D, D]``."""
        if self.attended is None:
            return self
        return replace(self, attended=self.attended.unflatten(0, (kv_heads, -1))[list(group)])


def inputs_from_moment(moment: Tensor, attended: Tensor | None = None) -> Inputs:
    """Take the root of a second moment, damped.

    Args:
        moment: ``[X, X]``, the mean of ``x x^T`` over tokens, symmetric, float64.
        attended: ``[H, D, D]``, as in ``Inputs``.

    Returns:
        The inputs.

    Raises:
        ValueError: the moment holds NaN or infinity.
    """
    if not bool(moment.isfinite().all()):
        raise ValueError("the second moment of the inputs holds NaN or infinity")
    values, vectors = torch.linalg.eigh((moment + moment.T) / 2)
    damped = values.clamp(min=0) + DAMPING * values.mean()
    return Inputs(vectors * damped.sqrt(), attended)
