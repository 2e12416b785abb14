"""Keys of a recipe that nothing would read: whoever writes one expects something of it."""

from recipes.errors import RecipeError
from recipes.schema import ConvertPart, Recipe, UptrainPart

WEIGHED = {
    "kl_weight": ("kl_top_k", "temperature"),
    "attention_weight": ("attention_layers",),
}
"""Keys of a training that say how a loss is taken, by the weight that must not be 0."""


def check_idle(recipe: Recipe) -> None:
    """Check that every key of a recipe has an effect.

    Raises:
        RecipeError: one has none; the first is named.
    """
    for name, part in recipe.conversions().items():
        _check_conversion(name, part)
    if "placement" in recipe.model_fields_set and not any(
        part.measured_layers for part in recipe.conversions().values()
    ):
        raise RecipeError("placement: nothing is measured, because no conversion has global_layers: auto:N")
    if recipe.uptrain is not None:
        _check_training(recipe.uptrain)


def _check_conversion(name: str, part: ConvertPart) -> None:
    if part.kv_heads is None:
        named = [
            key
            for key in ("merge", "group", "calibrate", "refit", "reconstruct")
            if key in part.model_fields_set
        ]
        if named:
            raise RecipeError(f"{name}: {named[0]} says how heads are merged, and kv_heads is not given")


def _check_training(part: UptrainPart) -> None:
    for weight, keys in WEIGHED.items():
        named = [key for key in keys if key in part.model_fields_set]
        if named and not getattr(part, weight):
            raise RecipeError(f"uptrain: {named[0]} has no effect while {weight} is 0")
