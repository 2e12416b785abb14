"""A whole recipe."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from eval.suite import Suite
from recipes.schema.conversion import ConvertPart
from recipes.schema.part import Part
from recipes.schema.placement import PlacementPart
from recipes.schema.uptrain import UptrainPart

CONVERTED = "converted"
RESERVED = {
    "source", CONVERTED, "uptrained", "placement", "stages", "training", "teacher", "measurements",
    "samples", "results.json", "report.md", "report.html",
}  # fmt: skip
"""What a run puts into its folder, beside one folder per ablation."""


class Recipe(Part):
    """Convert, measure, uptrain, measure.

    Attributes:
        name: Names the run's folder.
        description: One sentence for the list.
        workload: What it is for.
        source: Checkpoint folder relative to the recipe, or a hub id.
        convert: The conversion.
        ablations: More conversions to measure beside it, by name.
        placement: What ``global_layers: auto:N`` is measured with.
        uptrain: The training; absent: none.
        eval: What to measure, the keys of a suite; its paths are relative to the recipe.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    workload: Literal["chat", "documents", "any"] = "any"
    source: str
    convert: ConvertPart
    ablations: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")], ConvertPart] = Field(
        default={}
    )
    placement: PlacementPart = PlacementPart()
    uptrain: UptrainPart | None = None
    eval: Suite

    @model_validator(mode="after")
    def _columns_differ(self) -> "Recipe":
        taken = sorted(set(self.ablations) & RESERVED)
        if taken:
            raise ValueError(f"an ablation cannot be called {taken[0]!r}: the run uses that name itself")
        return self

    @model_validator(mode="after")
    def _placement_has_text(self) -> "Recipe":
        measured = any(part.measured_layers for part in self.conversions().values())
        if measured and self.placement.data is None and self.uptrain is None:
            raise ValueError("global_layers=auto needs text to measure on: give placement.data")
        return self

    def conversions(self) -> dict[str, ConvertPart]:
        """Every conversion by the name of its column, the one to be trained first."""
        return {CONVERTED: self.convert, **self.ablations}

    def placement_with_text(self) -> PlacementPart:
        """The placement with its data given: its own, or the training's."""
        if self.placement.data is not None or self.uptrain is None:
            return self.placement
        return self.placement.model_copy(update={"data": self.uptrain.data})
