"""In which order the keys and values of a layer lie in memory, which their shape ``[B, K, N, D]`` hides."""

from dataclasses import dataclass

import torch
from torch import Tensor

from patches.policy import PolicyError


@dataclass(frozen=True)
class Layout:
    """An order of the axes of ``[B, K, N, D]`` in memory.

    Attributes:
        name: What a user calls it.
        axes: From the one with the longest stride to the contiguous one, which is always ``D``.
    """

    name: str
    axes: tuple[int, int, int, int]

    def allocate(
        self,
        batch: int,
        kv_heads: int,
        tokens: int,
        dim: int,
        dtype: torch.dtype,
        device: torch.device,
        pinned: bool = False,
    ) -> Tensor:
        """Memory in one piece, with whatever lies there.

        Args:
            batch: ``B``.
            kv_heads: ``K``.
            tokens: ``N``.
            dim: ``D``.
            dtype: Of the numbers.
            device: Where.
            pinned: Whether CUDA may copy it while the CPU goes on; memory of the CPU alone.

        Returns:
            ``[B, K, N, D]``, with strides that say where things lie.
        """
        sizes, strides, step = (batch, kv_heads, tokens, dim), [1, 1, 1, 1], 1
        for axis in reversed(self.axes):
            strides[axis] = step
            step *= max(sizes[axis], 1)
        # A cache that was first filled under inference mode must still be writable outside of it.
        with torch.inference_mode(False):
            return torch.empty_strided(sizes, strides, dtype=dtype, device=device, pin_memory=pinned)


HEADS_FIRST = Layout("heads-first", (0, 1, 2, 3))
TOKENS_FIRST = Layout("tokens-first", (0, 2, 1, 3))
LAYOUTS = {layout.name: layout for layout in (HEADS_FIRST, TOKENS_FIRST)}
"""What a user may choose."""


def find_layout(name: str) -> Layout:
    """The layout of that name.

    Raises:
        PolicyError: there is none.
    """
    if name not in LAYOUTS:
        raise PolicyError(
            f"layout={name!r} is not known; choose {' or '.join(LAYOUTS)}, or None for what suits the device"
        )
    return LAYOUTS[name]


def layout_of(device: torch.device) -> Layout:
    """The layout that attention on ``device`` reads fastest.

    The products of one KV head read its tokens, which on a CPU should follow each other
    (tests/benchmarks/layouts.py). FlashAttention takes tokens first, which on CUDA is a choice, not measured.
    """
    return HEADS_FIRST if device.type == "cpu" else TOKENS_FIRST
