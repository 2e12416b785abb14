"""From the output of a projection with ``K`` KV heads to the one that a forward pass for ``H`` expects.

Every layout works on the last dimension alone and reads the number of KV heads from its size, so that it also
serves a shard of the projection.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How a projection that makes keys or values lays them out.

    Attributes:
        repeat: ``(output, groups, head_dim)`` to the output with every key and value head ``groups`` times.
        fused: Whether it makes queries, keys and values, or one of the latter alone.
    """

    repeat: Callable[[Tensor, int, int], Tensor]
    fused: bool

    def features(self, features: int, groups: int) -> int:
        """Output features with ``K`` KV heads, where there are ``features`` with ``H``."""
        return features * (groups + 2) // (3 * groups) if self.fused else features // groups


def repeat_heads(states: Tensor, groups: int, head_dim: int) -> Tensor:
    """Keys or values alone: ``[..., K * D]`` to ``[..., H * D]``, every head ``groups`` times in a row.

    Args:
        states: Output of the projection, any dtype.
        groups: ``G``, query heads of one KV head.
        head_dim: ``D``.
    """
    return states.unflatten(-1, (-1, head_dim)).repeat_interleave(groups, dim=-2).flatten(-2)


def repeat_in_blocks(states: Tensor, groups: int, head_dim: int) -> Tensor:
    """All queries, all keys, all values: ``[..., (H + 2K) * D]`` to ``[..., 3 * H * D]``.

    Args:
        states: Output of the projection, any dtype.
        groups: ``G``, query heads of one KV head.
        head_dim: ``D``.
    """
    shared = states.shape[-1] // (groups + 2)
    queries, keys, values = states.split([groups * shared, shared, shared], dim=-1)
    return torch.cat([queries, *(repeat_heads(part, groups, head_dim) for part in (keys, values))], dim=-1)


def repeat_interleaved(states: Tensor, groups: int, head_dim: int) -> Tensor:
    """Head by head: rows ``[K, G + 2, D]`` (the queries of a KV head, its key, its value) to ``[H, 3, D]``.

    Args:
        states: Output of the projection, ``[..., (H + 2K) * D]``.
        groups: ``G``, query heads of one KV head.
        head_dim: ``D``.

    Returns:
        ``[..., H * 3 * D]``: every query head with its key and value beside it.
    """
    queries, key, value = states.unflatten(-1, (-1, groups + 2, head_dim)).split([groups, 1, 1], dim=-2)
    return torch.stack([queries, key.expand_as(queries), value.expand_as(queries)], dim=-2).flatten(-4)


SEPARATE = Layout(repeat_heads, fused=False)
BLOCKS = Layout(repeat_in_blocks, fused=True)
INTERLEAVED = Layout(repeat_interleaved, fused=True)
