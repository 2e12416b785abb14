"""Reading a recipe: YAML, ``--set`` changes, and paths relative to the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from eval.errors import EvalError
from eval.strict import parse_strict
from recipes.errors import RecipeError
from recipes.schema import ConvertPart, FileData, Recipe, RetrievalData
from recipes.schema.data import Data, SourceData

SHIPPED = Path(__file__).parent
LAUNCHERS = SHIPPED / "accelerate"
"""Configurations of ``accelerate launch``, which are YAML too but no recipes."""


def shipped_recipes() -> list[Path]:
    """The recipe files that come with Headroom."""
    return sorted(path for path in SHIPPED.rglob("*.yaml") if not path.is_relative_to(LAUNCHERS))


def load_recipe(file: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        file: A YAML file.
        changes: ``a.b=value`` pairs, the value as YAML, put in before anything is checked.

    Raises:
        RecipeError: no such file, YAML that does not parse, an unknown key (the nearest is named), a value
            out of range, or a change that names no place.
    """
    path = Path(file)
    if not path.is_file():
        shipped = ", ".join(str(found.relative_to(SHIPPED.parent)) for found in shipped_recipes())
        raise RecipeError(f"recipe {str(file)!r} does not exist; those shipped: {shipped}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"recipe {path}: expected keys and values, got {type(data).__name__}")
    for change in changes:
        _apply(data, change)
    try:
        recipe = parse_strict(Recipe, data, where=f"recipe {path}")
    except EvalError as error:
        raise RecipeError(str(error)) from None
    return _resolved(recipe, path.parent)


def is_local(source: str) -> bool:
    """Whether a source names a folder here rather than a hub id."""
    return Path(source).is_absolute() or Path(source).exists()


def _apply(data: dict[str, Any], change: str) -> None:
    """Put ``a.b=value`` into ``data``."""
    place, equals, text = change.partition("=")
    keys = place.split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {change!r} must be a.b=value, for example uptrain.steps=50")
    for depth, key in enumerate(keys[:-1]):
        inner = data.setdefault(key, {})
        if not isinstance(inner, dict):
            raise RecipeError(
                f"--set {change!r}: {'.'.join(keys[: depth + 1])} is {inner!r}, which has no keys"
            )
        data = inner
    try:
        data[keys[-1]] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"--set {change!r}: the value is not YAML") from None


def _calibrated(part: ConvertPart, folder: Path) -> ConvertPart:
    """The part with its calibration file absolute; the name of a data set stays."""
    file, colon, column = (part.calibrate or "").partition(":")
    if not file or not (folder / file).exists():
        return part
    return part.model_copy(update={"calibrate": f"{(folder / file).resolve()}{colon}{column}"})


def _resolved(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with every path absolute."""
    changes: dict[str, Any] = {}
    beside = (folder / recipe.source).resolve()
    if recipe.source.startswith((".", "/", "~")) or beside.exists():
        changes["source"] = str(Path(recipe.source).expanduser() if recipe.source.startswith("~") else beside)
    changes["convert"] = _calibrated(recipe.convert, folder)
    changes["ablations"] = {name: _calibrated(part, folder) for name, part in recipe.ablations.items()}
    changes["eval"] = recipe.eval.beside(folder)
    if recipe.placement.data is not None:
        changes["placement"] = recipe.placement.model_copy(
            update={"data": _beside(recipe.placement.data, folder)}
        )
    if recipe.uptrain is not None:
        changes["uptrain"] = recipe.uptrain.model_copy(update={"data": _beside(recipe.uptrain.data, folder)})
    return recipe.model_copy(update=changes)


def _beside(data: Data, folder: Path) -> Data:
    """The data with their paths absolute."""
    return [_one_beside(one, folder) for one in data] if isinstance(data, list) else _one_beside(data, folder)


def _one_beside(data: SourceData, folder: Path) -> SourceData:
    field = "file" if isinstance(data, FileData | RetrievalData) else "data_files"
    files = getattr(data, field, None)
    if files is None:
        return data
    if isinstance(files, str):
        return data.model_copy(update={field: str((folder / files).resolve())})
    return data.model_copy(update={field: [str((folder / file).resolve()) for file in files]})
