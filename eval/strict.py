"""Read a mapping into a pydantic model; answer an unknown key with the nearest known one and its place."""

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from eval.errors import EvalError, unknown_name

Model = TypeVar("Model", bound=BaseModel)


def parse_strict(model: type[Model], data: Mapping[str, Any], where: str = "") -> Model:
    """Validate ``data`` as ``model``; models given here should forbid extra keys.

    Args:
        model: The pydantic class to build.
        data: What was read, for example from YAML.
        where: The file or place that the message should begin with.

    Raises:
        EvalError: a key is unknown (the nearest known key is named) or a value is not allowed. One line.

    Holds: the nearest key and its place are in the message (tests/eval/test_suite.py).
    """
    if not isinstance(data, Mapping):
        raise EvalError(f"{where or model.__name__}: expected keys and values, got {type(data).__name__}")
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        problems = error.errors()
        first = problems[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _fields_at(model, first["loc"][:-1])
            inside = ".".join(str(part) for part in first["loc"][:-1])
            text = unknown_name("key", str(first["loc"][-1]), known) + (f" (in {inside})" if inside else "")
        elif first["type"] == "missing":
            text = f"key {place!r} is missing"
        else:
            text = f"{place}: got {first['input']!r}: {first['msg']}" if place else first["msg"]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        prefix = f"{where}: " if where else ""
        raise EvalError(prefix + text.replace("\n", " ") + more) from None


def _fields_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Names of the fields of the model that lies at ``loc`` inside ``model``."""
    current = model
    for part in loc:
        field = current.model_fields.get(str(part))
        if field is None:
            continue
        nested = _model_in(field.annotation)
        if nested is None:
            return []
        current = nested
    return list(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic class inside an annotation such as ``list[Section] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        found = _model_in(part)
        if found is not None:
            return found
    return None
