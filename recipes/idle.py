"""Keys of a recipe that nothing would read: whoever writes one expects something of it."""

from recipes.errors import RecipeError
from recipes.schema import ConvertPart, Data, FileData, Recipe, UptrainPart
from recipes.schema.data import describe, expand, sources_of

WEIGHED = {
    "kl_weight": ("kl_top_k", "temperature"),
    "attention_weight": ("attention_layers",),
}
"""Keys of a training that say how a loss is taken, by the weight that must not be 0."""

COLUMNS = (".jsonl", ".parquet")
"""Ends of files that have columns."""


def check_idle(recipe: Recipe) -> None:
    """Check that no key was written that has no effect beside the others.

    Keys that are left out are never idle, and whether one has an effect on a given source is not asked here.

    Args:
        recipe: Its text files are there.

    Raises:
        RecipeError: one has none; the first is named.
    """
    for name, part in recipe.conversions().items():
        _check_conversion(name, part)
    if "placement" in recipe.model_fields_set and not any(
        part.measured_layers for part in recipe.conversions().values()
    ):
        raise RecipeError("placement: nothing is measured, because no conversion has global_layers: auto:N")
    if recipe.placement.data is not None:
        _check_data("placement", recipe.placement.data)
    if recipe.uptrain is not None:
        _check_training(recipe.uptrain)
        if recipe.uptrain.lora.sink_logits and recipe.convert.window is None:
            raise RecipeError("uptrain: lora.sink_logits are for windowed layers, and convert has no window")


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
    _check_data("uptrain", part.data)
    for weight, keys in WEIGHED.items():
        named = [key for key in keys if key in part.model_fields_set]
        if named and not getattr(part, weight):
            raise RecipeError(f"uptrain: {named[0]} has no effect while {weight} is 0")
    if "teacher" in part.model_fields_set and not (part.kl_weight or part.attention_weight):
        raise RecipeError("uptrain: teacher has no effect while kl_weight and attention_weight are 0")
    if "warmup_steps" in part.model_fields_set and part.warmup_steps >= part.steps:
        raise RecipeError(f"uptrain: warmup_steps={part.warmup_steps} must be below steps={part.steps}")
    stages = [] if isinstance(part.length, int) else part.length
    if "batch_size" in part.model_fields_set and stages and all(stage.batch_size for stage in stages):
        raise RecipeError("uptrain: batch_size has no effect, because every stage has its own")


def _check_data(what: str, data: Data) -> None:
    sources = sources_of(data)
    if len(sources) == 1 and "weight" in sources[0].model_fields_set:
        raise RecipeError(f"{what}: data.weight has no effect on a single source")
    for source in sources:
        if not isinstance(source, FileData) or "column" not in source.model_fields_set:
            continue
        if not any(path.suffix in COLUMNS for path in expand(source.file)):
            raise RecipeError(
                f"{what}: data.column={source.column!r} has no effect on {describe(source)}; only "
                f"{' and '.join(COLUMNS)} have columns"
            )
