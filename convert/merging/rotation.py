"""Rotary dimensions as complex numbers: one per frequency, so that a position is one multiplication."""

import torch
from torch import Tensor

from convert.heads import Rotary


def split_rotary(rows: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
    """Split the rows of heads into complex frequencies and dimensions without position.

    Args:
        rows: ``[..., D, X]``, real.
        rotary: Which dimensions turn, and how they pair.

    Returns:
        ``[..., F, X]`` complex with ``F = rotary.dims / 2``, and ``[..., D - rotary.dims, X]`` real.
    """
    turning, still = rows[..., : rotary.dims, :], rows[..., rotary.dims :, :]
    if rotary.interleaved:
        real, imaginary = turning[..., 0::2, :], turning[..., 1::2, :]
    else:
        real, imaginary = turning.chunk(2, dim=-2) if rotary.dims else (turning, turning)
    return torch.complex(real.contiguous(), imaginary.contiguous()), still


def join_rotary(turning: Tensor, still: Tensor, rotary: Rotary) -> Tensor:
    """Undo ``split_rotary``.

    Args:
        turning: ``[..., F, X]`` complex.
        still: ``[..., D - 2 F, X]`` real.
        rotary: How dimensions pair.

    Returns:
        ``[..., D, X]`` real.
    """
    if rotary.interleaved:
        paired = torch.stack([turning.real, turning.imag], dim=-2).flatten(-3, -2)
    else:
        paired = torch.cat([turning.real, turning.imag], dim=-2)
    return torch.cat([paired, still], dim=-2)
