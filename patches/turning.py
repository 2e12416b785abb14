"""``positions: cache``: the queries as the sinks meet them, turned back to a distance inside the cache.

A key is stored once, rotated by its true position, and never again. What a sink sees of a query is their
distance; to hold it at what it is when the cache has just filled, the query is turned back by the rest.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from patches.policy import PolicyError

SCALINGS = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary scaling whose frequencies do not change with the length of the text."""


@dataclass(frozen=True)
class Turn:
    """How far the queries of one forward pass are turned back.

    Attributes:
        cos: ``[1 or B, 1, T, R]`` float32, ``R`` the rotary dimensions.
        sin: the same.
    """

    cos: Tensor
    sin: Tensor

    def to(self, device: torch.device) -> "Turn":
        """The same on ``device``."""
        return self if self.cos.device == device else Turn(self.cos.to(device), self.sin.to(device))

    def apply(self, query: Tensor) -> Tensor:
        """The queries ``[B, H, T, D]``, whose first ``R`` dimensions are rotary in halves, turned back."""
        size = self.cos.shape[-1]
        rotary, rest = query[..., :size].float(), query[..., size:]
        first, second = rotary.chunk(2, dim=-1)
        turned = rotary * self.cos + torch.cat([second, -first], dim=-1) * self.sin
        return torch.cat([turned.to(query.dtype), rest], dim=-1)


def frequencies(rotary: Any) -> Tensor:
    """The angle per token of every rotary pair, ``[R / 2]`` float32, of a model's rotary module.

    Args:
        rotary: ``model.rotary_emb``.

    Raises:
        PolicyError: there is none, or its frequencies change with the length of the text.
    """
    inverse = getattr(rotary, "inv_freq", None)
    kind = getattr(rotary, "rope_type", None)
    if inverse is None or kind not in SCALINGS:
        what = f"rotary scaling {kind!r}" if inverse is not None else "this model"
        raise PolicyError(
            f"attention_window.positions='cache' cannot be had with {what}: it needs one set of rotary "
            f"frequencies that is the same at every length ({', '.join(SCALINGS)}); use 'absolute'"
        )
    return inverse.float()


def turn_of(positions: Tensor, inverse: Tensor, window: int, sinks: int) -> Turn:
    """What brings queries back to the distance at which the cache has just filled.

    Args:
        positions: ``[1 or B, T]`` int64, counted from the first real token of the row.
        inverse: ``[R / 2]`` from ``frequencies``.
        window: ``W``.
        sinks: ``S``.

    Returns:
        For position ``i``, ``max(0, i - (W + S - 1))`` tokens of rotation. Yarn's factor on the length of the
        query is already in it, so the angle is pure.

    Source: StreamingLLM, arXiv 2309.17453, section 3.2.
    Holds: equals rotating again with positions inside the cache (tests/patches/test_positions.py).
    """
    beyond = (positions - (window + sinks - 1)).clamp(min=0)
    # Products of large positions need more digits than float32 has.
    angle = beyond[..., None].double() * inverse.to(beyond.device).double()
    angle = torch.cat([angle, angle], dim=-1)[:, None]
    return Turn(angle.cos().float(), angle.sin().float())
