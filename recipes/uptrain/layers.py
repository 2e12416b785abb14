"""Which layers a recipe means when it says ``windowed``, ``converted`` or a list."""

from collections.abc import Iterable
from typing import Any

from eval.memory import cache_shape
from recipes.errors import RecipeError
from recipes.schema.uptrain import Layers, UptrainPart


def check_numbers(layers: Iterable[int], count: int) -> None:
    """See that layers are there.

    Args:
        layers: Their numbers, at least 0.
        count: Layers of the model.

    Raises:
        RecipeError: one is not.
    """
    wrong = [layer for layer in layers if layer >= count]
    if wrong:
        raise RecipeError(f"layer {wrong[0]} does not exist; the model has layers 0 to {count - 1}")


def choose_layers(chosen: Layers, student: Any, source: Any) -> list[int]:
    """The layers that a recipe means, ascending.

    Args:
        chosen: As the recipe says it.
        student: Config of the converted checkpoint.
        source: Config of its source.

    Raises:
        RecipeError: there is no such layer, or none that is meant.
    """
    count = student.num_hidden_layers
    if chosen == "all":
        return list(range(count))
    if isinstance(chosen, list):
        check_numbers(chosen, count)
        return sorted(set(chosen))
    ours, theirs = cache_shape(student), cache_shape(source)
    if ours.layers is None or theirs.layers is None:
        raise RecipeError(f"layers {chosen!r}: {ours.reason or theirs.reason}; give them as a list")
    windowed = {
        layer
        for layer, (one, other) in enumerate(zip(ours.layers, theirs.layers, strict=True))
        if one.place.window != other.place.window
    }
    fewer = {layer for layer in range(count) if ours.kv_heads[layer] != theirs.kv_heads[layer]}
    found = sorted(windowed if chosen == "windowed" else windowed | fewer)
    if not found:
        raise RecipeError(f"layers {chosen!r}: the conversion left none such; say all, or give a list")
    return found


def compared_layers(part: UptrainPart, student: Any, source: Any) -> dict[int, float]:
    """Layers whose attention is compared with the teacher's, ascending, and their weights in the mean.

    Args:
        part: The recipe's training.
        student: Config of the converted checkpoint.
        source: Config of its source.

    Raises:
        RecipeError: there is no such layer, or none that is meant.
    """
    if not part.attention_weight:
        return {}
    said = part.attention_layers
    weights = said if isinstance(said, dict) else {}
    chosen = list(weights) if isinstance(said, dict) else said
    return {layer: weights.get(layer, 1.0) for layer in choose_layers(chosen, student, source)}
