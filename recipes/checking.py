"""What can be known about a recipe before it runs."""

from pathlib import Path

from convert import ConvertError, Result, convert
from convert.compression import read_caches
from convert.quantities import format_value
from convert.treatment import choose_treatment
from convert.weights.dtypes import parse_dtype
from recipes.errors import RecipeError
from recipes.loading import is_local
from recipes.pipeline import conversion_request
from recipes.ready import check_layers, check_packages, check_written
from recipes.schema import ConvertPart, Recipe
from recipes.schema.data import sources_of


def check_recipe(recipe: Recipe, gpus: int = 1) -> list[str]:
    """Check everything that needs no training and no download.

    Args:
        recipe: A recipe whose keys and ranges are checked.
        gpus: That would share the training, for its memory.

    Returns:
        Lines that say what the recipe will do and what could not be checked.

    Raises:
        RecipeError: a conversion that is not possible, a key that nothing reads, a layer that does not exist,
            or a text that is not there.
    """
    # First: of too many measured layers the plan would say only that none has a window.
    check_layers(recipe)
    lines = []
    if is_local(recipe.source):
        lines += [
            f"{name}: {_plan(name, conversion, recipe.source)}"
            for name, conversion in recipe.conversions().items()
        ]
    else:
        lines.append(f"source {recipe.source}: on the hub, its heads and layers are checked when it is here")
        for name, conversion in recipe.conversions().items():
            _check_options(name, conversion, recipe.source)
    text = check_written(recipe)
    lines.append(f"eval: {', '.join(recipe.eval.sections())} on {text.origin}")
    if recipe.uptrain is not None:
        training = recipe.uptrain
        kinds = " and ".join(dict.fromkeys(source.kind for source in sources_of(training.data)))
        lines.append(
            f"uptrain: {training.steps} steps, {training.row_tokens:,} tokens per device from {kinds} data"
        )
        try:
            check_packages(training)
        except RecipeError as error:
            # A recipe may be checked on another machine than it is for.
            lines.append(f"here: {error}")
        # transformers and peft take seconds to import, and are needed for nothing else here.
        from recipes.memory import describe_memory

        lines.append(describe_memory(recipe, training, gpus))
    return lines


def _check_options(name: str, part: ConvertPart, source: str) -> None:
    """Check what a conversion says as far as that can be done without its source."""
    # A recipe for a GPU may be checked where there is none.
    request = conversion_request(part.model_copy(update={"device": "cpu"}), source, Path(name))
    try:
        choose_treatment(request)
        read_caches(request)
        if request.dtype is not None:
            parse_dtype(request.dtype)
    except ConvertError as error:
        raise RecipeError(f"{name}: {error}") from None


def _plan(name: str, part: ConvertPart, source: str) -> str:
    # Nothing is written by a dry run; the name only has to be free.
    nowhere = Path(f"{name}.unwritten")
    measured, keep = "", part.measured_layers
    if keep is not None:
        # Which layers they will be changes neither the tier nor the bytes.
        part = part.with_global_layers(tuple(range(keep)))
        measured = f"; which {keep} layers stay global is measured in the run"
    try:
        result: Result = convert(conversion_request(part, source, nowhere, dry_run=True))
    except ConvertError as error:
        raise RecipeError(f"{name}: {error}") from None
    cache = result.rows[-1]
    before, after = (format_value(value, cache.unit) for value in (cache.before, cache.after))
    return f"{result.tier}, {cache.label} {before} -> {after}{measured}"
