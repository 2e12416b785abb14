"""One tensor: all queries, then all keys, then all values."""

from dataclasses import dataclass

from convert.families.layouts.layout import Layout


@dataclass(frozen=True)
class Concatenated(Layout):
    """Rows ``[q; k; v]`` in one projection, as in Phi-3, GPT-2, MPT and GPT-BigCode.

    Args:
        name: Name of the projection.
    """

    name: str = "qkv_proj"

    @property
    def projections(self) -> dict[str, tuple[str, ...]]:
        """The one projection."""
        return {self.name: ("q", "k", "v")}
