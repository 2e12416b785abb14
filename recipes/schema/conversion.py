"""How a recipe says a conversion."""

import re
from typing import Annotated

from pydantic import Field, PositiveInt, field_validator, model_validator

from recipes.schema.part import Part

AUTO = "auto"


class ConvertPart(Part):
    """One conversion of the source; the keys are the options of ``python -m convert``.

    A file in ``calibrate`` is relative to the recipe. Beyond what the options take, ``global_layers`` may be
    ``auto:N``: the ``N`` layers that ``recipes.placement`` chooses by measuring the source.
    """

    kv_heads: PositiveInt | str | None = None
    merge: str | None = None
    group: str = "adjacent"
    calibrate: str | None = None
    calibrate_tokens: PositiveInt = 32768
    calibrate_batch: PositiveInt = 8
    device: str = "cpu"
    refit: bool | None = None
    reconstruct: Annotated[int, Field(ge=0)] | None = None
    window: PositiveInt | None = None
    sinks: Annotated[int, Field(ge=0)] = 0
    positions: str = "absolute"
    global_layers: str = "none"
    cache: str = "full"
    window_cache: str = "full"
    dtype: str | None = None
    seed: int = 0

    @field_validator("global_layers", mode="before")
    @classmethod
    def _number_is_a_layer(cls, value: object) -> object:
        return str(value) if type(value) is int else value

    @model_validator(mode="after")
    def _auto_counts_layers(self) -> "ConvertPart":
        if self.global_layers.startswith(AUTO):
            if re.fullmatch(rf"{AUTO}:[1-9][0-9]{{0,3}}", self.global_layers) is None:
                raise ValueError(f"global_layers={self.global_layers!r} must be auto:N, for example auto:4")
            if self.window is None:
                raise ValueError(f"global_layers={self.global_layers} needs a window")
        return self

    @property
    def measured_layers(self) -> int | None:
        """How many layers are to be chosen by measurement; None where they are named."""
        word, _, number = self.global_layers.partition(":")
        return int(number) if word == AUTO else None

    def with_global_layers(self, layers: tuple[int, ...]) -> "ConvertPart":
        """The same conversion with its layers named."""
        return self.model_copy(update={"global_layers": ",".join(map(str, layers))})
