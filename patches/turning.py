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
        rotary, rest = query[..., :size], query[..., size:]
        rotary = rotary.to(torch.promote_types(query.dtype, torch.float32))
        first, second = rotary.chunk(2, dim=-1)
        turned = rotary * self.cos + torch.cat([second, -first], dim=-1) * self.sin
        return torch.cat([turned.to(query.dtype), rest], dim=-1)


def check_turning(model: Any) -> None:
    """Refuse a decoder whose queries cannot be turned back.

    Args:
        model: A windowed decoder: its layers, ``rotary_emb``, policy, and the ``obstacle`` of its class.

    Raises:
        PolicyError: something in its architecture stands against it, or its frequencies change with the
            length of the text.
    """
    rotary, obstacle = getattr(model, "rotary_emb", None), model.obstacle
    kind = getattr(rotary, "rope_type", None)
    still = [
        index
        for index, layer in enumerate(model.layers)
        if model.config.window_policy.window_of(index)
        and not getattr(getattr(layer, model.attention_name), "use_rope", True)
    ]
    if still:
        obstacle = f"layer {still[0]} has no rotary positions"
    elif not obstacle and getattr(rotary, "inv_freq", None) is None:
        obstacle = "it has no rotary frequencies that all layers share"
    elif not obstacle and kind not in SCALINGS:
        same = ", ".join(SCALINGS)
        obstacle = f"rotary scaling {kind!r} is not one of those that are the same at every length ({same})"
    if obstacle:
        raise PolicyError(
            f"attention_window.positions='cache' cannot be had with this model: {obstacle}; use 'absolute'"
        )


def turn_of(positions: Tensor, inverse: Tensor, window: int, sinks: int) -> Turn:
    """What brings queries back to the distance at which the cache has just filled.

    Args:
        positions: ``[1 or B, T]`` int64, counted from the first real token of the row.
        inverse: ``[R / 2]``, the angle per token of every rotary pair.
        window: ``W``.
        sinks: ``S``.

    Returns:
        For position ``i``, ``max(0, i - (W + S - 1))`` tokens of rotation. Yarn's factor on the length of the
        query is already in it, so the angle is pure.

    Source: StreamingLLM, arXiv 2309.17453, section 3.2.
    Holds: equals rotating again with positions inside the cache (tests/patches/test_positions.py).
    """
    limit, inverse = window + sinks - 1, inverse.to(positions.device).float()
    # The rotation that transformers gave the query is of an angle in float32, which at large positions is
    # coarse. Taking back that very angle, and giving the small one exactly, leaves nothing of the error.
    given = (positions[..., None].float() * inverse).double()
    angle = (given - limit * inverse.double()).where(positions[..., None] > limit, 0.0)
    angle = torch.cat([angle, angle], dim=-1)[:, None]
    return Turn(angle.cos().float(), angle.sin().float())
