"""A tensor for queries, one for keys, one for values."""

from dataclasses import dataclass

from convert.families.layouts.layout import Layout


@dataclass(frozen=True)
class Separate(Layout):
    """Projections ``q_proj``, ``k_proj`` and ``v_proj``, as in Llama and most families after it."""

    @property
    def projections(self) -> dict[str, tuple[str, ...]]:
        """One projection per role."""
        return {f"{role}_proj": (role,) for role in ("q", "k", "v")}
