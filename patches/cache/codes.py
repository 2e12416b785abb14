"""Keys and values as small integers: codes, and the grid that each of them counts on.

A number becomes ``round((number - zero) / step)``: ``zero`` is the least of those that share a grid, and
their span over all codes is the ``step`` between two. The span is stored, because the step of small numbers
is below what float16 can tell apart. Keys share a grid with the tokens of their block, channel by channel,
because a few channels of keys are far larger than the rest in every token; values share one with channels
beside them, token by token, because theirs are not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

GRID = torch.float16
"""Dtype of grids: as small as bfloat16, and no code is further from its number than with float32."""
KEY_CODES, KEY_GRIDS = "key codes", "key grids"
VALUE_CODES, VALUE_GRIDS = "value codes", "value grids"


@dataclass(frozen=True)
class Coding:
    """How tokens become codes.

    Attributes:
        bits: Of a code, 8 or 4.
        block: Tokens whose keys share grids.
        group: Channels of a token whose values share a grid; the last group may have fewer.

    Source: KIVI, arXiv 2402.02750, section 3.
    Holds: no number is further from what it was than its grid says (tests/patches/test_codes.py).
    """

    bits: int
    block: int
    group: int

    def width(self, dim: int) -> int:
        """Bytes of the codes of one token."""
        return -(-dim * self.bits // 8)

    def groups(self, dim: int) -> int:
        """Grids of the values of one token."""
        return -(-dim // self.group)

    def block_bytes(self, dim: int) -> int:
        """Bytes of the keys and values of one head and one block."""
        grids = dim + self.block * self.groups(dim)
        return 2 * self.block * self.width(dim) + 2 * GRID.itemsize * grids

    def room(self, keys: Tensor, values: Tensor, blocks: int) -> dict[str, Tensor]:
        """Zeros in place of the codes and grids of so many blocks.

        Args:
            keys: ``[B, K, T, D]``, for the shape and device alone.
            values: the same.
            blocks: ``N / block``.

        Returns:
            ``key codes`` and ``value codes`` ``[B, K, N, width]`` uint8; ``key grids``
            ``[B, K, N / block, 2, D]`` and ``value grids`` ``[B, K, N, 2, groups]``, span before zero.
        """
        rows, tokens, dim = keys.shape[:2], blocks * self.block, keys.shape[3]
        own = values.shape[3]
        shapes = {
            KEY_CODES: (tokens, self.width(dim)),
            KEY_GRIDS: (blocks, 2, dim),
            VALUE_CODES: (tokens, self.width(own)),
            VALUE_GRIDS: (tokens, 2, self.groups(own)),
        }
        return {
            name: torch.zeros(
                *rows, *shape, dtype=GRID if "grids" in name else torch.uint8, device=keys.device
            )
            for name, shape in shapes.items()
        }

    def encode(self, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
        """Codes and grids, named and shaped as ``room`` says.

        Args:
            keys: ``[B, K, N, D]``, any float dtype, whole blocks.
            values: the same.
        """
        blocks = keys.float().unflatten(2, (-1, self.block))
        key_grids = _grids(blocks.amin(dim=3), blocks.amax(dim=3))
        parts = values.float().split(self.group, dim=-1)
        low, high = (
            torch.cat([extreme(part, dim=-1, keepdim=True) for part in parts], dim=-1)
            for extreme in (torch.amin, torch.amax)
        )
        value_grids = _grids(low, high)
        return {
            KEY_CODES: self._codes(blocks, *self._by_block(key_grids)).flatten(2, 3),
            KEY_GRIDS: key_grids,
            VALUE_CODES: self._codes(values.float(), *self._by_channel(value_grids, values.shape[3])),
            VALUE_GRIDS: value_grids,
        }

    def decode(self, coded: dict[str, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, K, N, D]`` again.

        Args:
            coded: As ``encode`` gives them.
            dtype: Of the result; what it is rounded from is computed in float32.
        """
        dim = coded[KEY_GRIDS].shape[-1]
        codes = self._unpack(coded[KEY_CODES], dim).unflatten(2, (-1, self.block))
        step, zero = self._by_block(coded[KEY_GRIDS])
        keys = codes.float().mul_(step).add_(zero).flatten(2, 3).to(dtype)
        step, zero = self._by_channel(coded[VALUE_GRIDS], dim)
        values = self._unpack(coded[VALUE_CODES], dim).float().mul_(step).add_(zero).to(dtype)
        return keys, values

    def _codes(self, numbers: Tensor, step: Tensor, zero: Tensor) -> Tensor:
        """``[..., width]`` uint8."""
        # Numbers that are all alike have no step between them.
        codes = (numbers - zero).div_(torch.where(step > 0, step, 1.0))
        return self._pack(codes.round_().clamp_(0, 2**self.bits - 1).to(torch.uint8))

    def _steps(self, grids: Tensor) -> tuple[Tensor, Tensor]:
        """Step and zero, float32, without dimension 3."""
        span, zero = grids.float().unbind(3)
        return span / (2**self.bits - 1), zero

    def _by_block(self, grids: Tensor) -> tuple[Tensor, Tensor]:
        """Step and zero of keys, ``[B, K, N / block, 1, D]``."""
        step, zero = self._steps(grids)
        return step[:, :, :, None], zero[:, :, :, None]

    def _by_channel(self, grids: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Step and zero of values, ``[B, K, N, D]``."""
        group = min(self.group, dim)
        step, zero = (each.repeat_interleave(group, dim=-1)[..., :dim] for each in self._steps(grids))
        return step, zero

    def _pack(self, codes: Tensor) -> Tensor:
        """Two halves of the channels in the halves of a byte, the first in the lower one."""
        if self.bits == 8:
            return codes
        half = self.width(codes.shape[-1])
        packed = codes[..., :half].clone()
        packed[..., : codes.shape[-1] - half] |= codes[..., half:] << 4
        return packed

    def _unpack(self, packed: Tensor, dim: int) -> Tensor:
        return packed if self.bits == 8 else torch.cat([packed & 15, packed >> 4], dim=-1)[..., :dim]


def _grids(low: Tensor, high: Tensor) -> Tensor:
    """Span and zero, ``[..., 2, M]``, from extremes ``[..., M]``."""
    zero = low.to(GRID)
    # Counted from the zero that is stored, so that its rounding costs no reach at the other end.
    # Autocast to bfloat16 knows no `stack` of what is kept in float16.
    grids = torch.empty(*low.shape[:-1], 2, low.shape[-1], dtype=GRID, device=low.device)
    grids[..., 0, :], grids[..., 1, :] = (high - zero.float()).to(GRID), zero
    return grids
