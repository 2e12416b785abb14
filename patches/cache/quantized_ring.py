"""Window layers whose older tokens are codes: as many blocks as the window needs, allocated once."""

from patches.cache.quantized import EXACT, QuantizedLayer


class QuantizedRing(QuantizedLayer):
    """A ring of whole blocks behind the exact tokens, in which a new block takes the place of the oldest.

    Holds: every query sees exactly its window and the sinks (tests/patches/test_quantized.py).
    """

    def _has(self, length: int, furthest: int) -> bool:
        division = self.division
        assert division.window is not None and division.blocks is not None
        oldest = division.coded(furthest) - division.blocks * division.block
        seen = max(length - division.window + 1 - division.sinks, 0)
        return super()._has(length, furthest) and oldest <= seen

    def _make_room(self, blocks: int, tokens: int) -> None:
        """Leave to earlier queries of a pass with several tokens what later ones no longer see."""
        if tokens > 1:
            self.parts |= {name: part.clone() for name, part in self.parts.items() if name not in EXACT}
