"""How a recipe says what ``global_layers: auto:N`` is measured with."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from recipes.schema.data import Data
from recipes.schema.part import Part

Probe = Literal["language", "copy", "needle"]


class PlacementPart(Part):
    """Text and rows on which layers are compared.

    Attributes:
        data: Where the text comes from; absent: the training's.
        length: Tokens of a row; absent: four windows, or as many as the source allows.
        rows: Rows of each probe.
        probes: What counts: ``language``, tokens of the text whose context a window cuts; ``copy``, a passage
            repeated from beyond the window; ``needle``, the answer to a question for a number beyond it.
        seed: Draws tokens, passages and needles.
        device: Where it runs: ``auto``, ``cpu``, ``cuda``.
    """

    data: Data | None = None
    length: PositiveInt | None = None
    rows: Annotated[int, Field(ge=2)] = 8
    probes: Annotated[list[Probe], Field(min_length=1)] = Field(default=["language", "copy", "needle"])
    seed: int = 0
    device: str = "auto"
