"""What a recipe can say, checked before anything runs."""

from recipes.schema.conversion import ConvertPart
from recipes.schema.data import Data, DatasetData, FileData, RetrievalData, TinyData
from recipes.schema.placement import PlacementPart
from recipes.schema.recipe import Recipe
from recipes.schema.uptrain import LoraPart, UptrainPart

__all__ = [
    "ConvertPart",
    "Data",
    "DatasetData",
    "FileData",
    "LoraPart",
    "PlacementPart",
    "Recipe",
    "RetrievalData",
    "TinyData",
    "UptrainPart",
]
