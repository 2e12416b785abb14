"""``--refit``: one ridge regression that lets the output projection make up for what merging lost."""

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-4
"""Share of the mean eigenvalue by which the solution is held to where it starts."""


@dataclass
class Regression:
    """Sums over tokens from which an output projection can be solved.

    Args:
        size: Numbers per token that it reads, ``H * D``, and one more if it has a bias.
        outputs: Numbers per token that it gives, ``E``.
    """

    gram: Tensor
    cross: Tensor
    tokens: int = 0

    @classmethod
    def empty(cls, size: int, outputs: int, device: torch.device) -> "Regression":
        """Start with no tokens."""
        return cls(
            torch.zeros(size, size, dtype=torch.float64, device=device),
            torch.zeros(size, outputs, dtype=torch.float64, device=device),
        )

    def add(self, reads: Tensor, wanted: Tensor) -> None:
        """Add tokens.

        Args:
            reads: ``[N, size]``, what the projection reads.
            wanted: ``[N, outputs]``, what it should give.
        """
        reads, wanted = reads.double(), wanted.double()
        self.gram += reads.T @ reads
        self.cross += reads.T @ wanted
        self.tokens += len(reads)

    def solve(self, start: Tensor) -> Tensor:
        """Solve for the projection.

        Args:
            start: ``[outputs, size]``, to which directions the text does not show are held.

        Returns:
            ``[outputs, size]``, float64.
        """
        start = start.double()
        ridge = RIDGE * self.gram.diagonal().mean()
        if not ridge:
            # The heads give nothing at all on this text.
            return start
        held = self.gram + ridge * torch.eye(len(self.gram), dtype=self.gram.dtype, device=self.gram.device)
        missing = self.cross - self.gram @ start.T
        return start + torch.linalg.solve(held, missing).T
