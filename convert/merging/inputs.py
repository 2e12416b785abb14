"""What is known about the inputs of a layer's projections: their second moment, or nothing."""

from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 1e-5
"""Share of the mean eigenvalue added to all: directions that a text never shows still count a little."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of one layer's q, k and v projections, a 1 appended if there are biases.

    Args:
        root: ``[X, X]`` with ``root @ root.T`` their second moment, float64; None: the identity.
    """

    root: Tensor | None = None

    def seen(self, rows: Tensor) -> Tensor:
        """Weigh projection rows ``[..., X]`` so that plain norms measure them on these inputs."""
        return rows if self.root is None else rows @ self.root.to(rows.dtype)


def inputs_from_moment(moment: Tensor) -> Inputs:
    """Take the root of a second moment, damped.

    Args:
        moment: ``[X, X]``, the mean of ``x x^T`` over tokens, symmetric, float64.

    Returns:
        The inputs.

    Raises:
        ValueError: the moment holds NaN or infinity.
    """
    if not bool(moment.isfinite().all()):
        raise ValueError("the second moment of the inputs holds NaN or infinity")
    values, vectors = torch.linalg.eigh((moment + moment.T) / 2)
    damped = values.clamp(min=0) + DAMPING * values.mean()
    return Inputs(vectors * damped.sqrt())
