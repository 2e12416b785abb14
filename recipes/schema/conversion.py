"""How a recipe says a conversion."""

from typing import Annotated

from pydantic import Field, PositiveInt, field_validator

from recipes.schema.part import Part


class ConvertPart(Part):
    """One conversion of the source; the keys are the options of ``python -m convert``.

    A file in ``calibrate`` is relative to the recipe.
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
