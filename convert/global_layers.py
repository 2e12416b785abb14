"""The ``--global-layers`` language: which layers keep full attention."""

import re

from convert.errors import ConvertError

ALLOWED = "none, all, every:N, first:N, last:N, layer numbers, or several of these joined by commas"


def parse_global_layers(spec: str, layers: int) -> tuple[int, ...]:
    """Read a specification such as ``every:4`` or ``first:2,last:2`` or ``0,5,10``.

    Args:
        spec: What the user wrote. ``every:4`` means the last of every four: layers 3, 7, 11.
        layers: Number of layers of the model.

    Returns:
        The global layers, ascending, each once.

    Raises:
        ConvertError: the text is not in the language, or a layer does not exist.
    """
    chosen: set[int] = set()
    parts = [part.strip() for part in spec.split(",")]
    if len(parts) > 1 and {"none", "all"} & set(parts):
        raise ConvertError(f"global_layers={spec!r}: 'none' and 'all' stand alone")
    for part in parts:
        chosen.update(_layers_of(part, spec, layers))
    return tuple(sorted(chosen))


def _layers_of(part: str, spec: str, layers: int) -> range | tuple[int, ...]:
    if part == "none":
        return ()
    if part == "all":
        return range(layers)
    if part.startswith("auto"):
        raise ConvertError(
            f"global_layers={spec!r}: which layers matter is measured by a recipe, or by `python -m recipes "
            "layers`, which prints what to give here"
        )
    match = re.fullmatch(r"(?:(every|first|last):)?([0-9]{1,9})", part)
    if match is None:
        raise ConvertError(f"global_layers={spec!r}: cannot read {part!r}; allowed: {ALLOWED}")
    word, number = match[1], int(match[2])
    if word is None:
        if number >= layers:
            raise ConvertError(
                f"global_layers={spec!r}: layer {number} does not exist; there are layers 0 to {layers - 1}"
            )
        return (number,)
    if not 1 <= number <= layers:
        raise ConvertError(
            f"global_layers={spec!r}: {part!r} needs a number from 1 to the model's {layers} layers"
        )
    if word == "every":
        return range(number - 1, layers, number)
    return range(number) if word == "first" else range(layers - number, layers)
