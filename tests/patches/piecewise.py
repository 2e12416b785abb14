"""A compressed cache that compresses nothing: every token in pieces, exactly as it came."""

from dataclasses import dataclass

import torch

from patches.cache.compressed import CompressedLayer
from patches.cache.policies import full
from patches.cache.policies.policy import CachePolicy
from patches.cache.stored import Piece, Stored

WIDE = 7


class PiecewiseLayer(CompressedLayer):
    """Tokens by column, shown ``WIDE`` at a time with the positions of their rows."""

    def allocate(self, key_states, value_states):
        self.parts = {"keys": key_states[:, :, :0], "values": value_states[:, :, :0]}

    def take_in(self, new, first, starts, past):
        before = dict(self.parts)
        self.parts = {
            name: torch.cat([before[name], states], dim=2)
            for name, states in zip(("keys", "values"), new, strict=True)
        }
        begins = torch.tensor([past - each for each in first])

        def pieces():
            for low in range(0, past, WIDE):
                columns = torch.arange(low, min(low + WIDE, past))
                positions = (columns - begins[:, None])[:, None]
                yield Piece(before["keys"][:, :, columns], before["values"][:, :, columns], positions)

        return Stored(past, starts, new, pieces)


@dataclass(frozen=True)
class Options:
    """No settings."""


POLICY = CachePolicy(
    **{
        **vars(full.POLICY),
        "name": "piecewise",
        "kinds": ("global",),
        "options": Options,
        "make": lambda options, place: PiecewiseLayer(),
        "exact": False,
    }
)
