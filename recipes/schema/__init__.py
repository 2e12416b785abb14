"""What a recipe can say, checked before anything runs."""

from recipes.schema.conversion import ConvertPart
from recipes.schema.data import Data, DatasetData, FileData, RetrievalData, SourceData, TinyData
from recipes.schema.placement import PlacementPart
from recipes.schema.recipe import Recipe
from recipes.schema.uptrain import HeldoutPart, LoraPart, Stage, UptrainPart

__all__ = [
    "ConvertPart",
    "Data",
    "DatasetData",
    "FileData",
    "HeldoutPart",
    "LoraPart",
    "PlacementPart",
    "Recipe",
    "RetrievalData",
    "SourceData",
    "Stage",
    "TinyData",
    "UptrainPart",
]
