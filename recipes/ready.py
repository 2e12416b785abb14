"""What shows before a run begins, and would otherwise show when hours of it are done."""

from eval.errors import EvalError
from eval.text import TextSource, read_text
from recipes.errors import RecipeError
from recipes.idle import check_idle
from recipes.schema import Data, Recipe, UptrainPart
from recipes.schema.data import local_files
from recipes.uptrain.eight_bit import require_bitsandbytes
from recipes.uptrain.tensorboard import require_tensorboard


def check_written(recipe: Recipe) -> TextSource:
    """Check what a recipe says as far as that needs neither a model nor a download.

    Args:
        recipe: A recipe whose keys and ranges are checked.

    Returns:
        The text to measure on.

    Raises:
        RecipeError: a text is not there, a key has no effect, or a layer does not exist.
    """
    try:
        text = read_text(recipe.eval.text, recipe.eval.text_start)
    except EvalError as error:
        raise RecipeError(f"eval: {error}") from None
    if recipe.placement.data is not None:
        _check_files("placement", recipe.placement.data)
    if recipe.uptrain is not None:
        _check_files("uptrain", recipe.uptrain.data)
    check_layers(recipe)
    check_idle(recipe)
    return text


def check_packages(part: UptrainPart) -> None:
    """Check that the packages are installed here that only some trainings need.

    Raises:
        RecipeError: one is not.
    """
    if part.optimizer != "adamw":
        require_bitsandbytes(f"optimizer {part.optimizer}", "optimizer: adamw")
    if part.teacher.kind != "shared" and part.teacher.quantization == "8bit":
        require_bitsandbytes("teacher.quantization 8bit", "quantization: none")
    if part.tensorboard:
        require_tensorboard()


def _check_files(what: str, data: Data) -> None:
    try:
        local_files(data)
    except ValueError as error:
        raise RecipeError(f"{what}: {error}") from None


def check_layers(recipe: Recipe) -> None:
    """Check the numbers of layers, where a recipe has any and the source's sizes are known.

    Raises:
        RecipeError: a layer does not exist, or more are to be kept than there are.
    """
    part, named = recipe.uptrain, {}
    if part is not None:
        said = {"lora.layers": part.lora.layers, "attention_layers": part.attention_layers}
        named = {key: layers for key, layers in said.items() if not isinstance(layers, str)}
    measured = [(name, each.measured_layers or 0) for name, each in recipe.conversions().items()]
    if not named and not any(keep for _, keep in measured):
        return
    # transformers takes seconds to import, and few recipes name layers.
    from recipes.shapes import source_config
    from recipes.uptrain.layers import check_numbers

    config = source_config(recipe.source)
    if config is None:
        return
    count = config.num_hidden_layers
    for name, keep in measured:
        if keep >= count:
            raise RecipeError(
                f"{name}: global_layers=auto:{keep} must keep 1 to {count - 1} of the source's {count} layers"
            )
    for key, layers in named.items():
        try:
            check_numbers(layers, count)
        except RecipeError as error:
            raise RecipeError(f"uptrain.{key}: {error}") from None
