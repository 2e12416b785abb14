"""Names of checkpoints, as they are given on the command line and used for files."""

import re
from collections.abc import Sequence

from eval.errors import EvalError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def split_pair(argument: str) -> tuple[str, str]:
    """``NAME=PATH`` as a pair.

    Raises:
        EvalError: no ``=``, or nothing on one side of it.
    """
    name, equals, path = argument.partition("=")
    if not equals or not name or not path:
        raise EvalError(f"checkpoint {argument!r} must be NAME=PATH, for example source=path/to/checkpoint")
    return name, path


def check_names(names: Sequence[str]) -> None:
    """Refuse names that repeat or that cannot be part of a file's name.

    Raises:
        EvalError: see above, or no name at all.
    """
    if not names:
        raise EvalError("no checkpoint given: at least one NAME=PATH")
    for name in names:
        if not _NAME.fullmatch(name):
            raise EvalError(
                f"checkpoint name {name!r} may only have letters, digits and . _ + -, a letter or digit first"
            )
        if names.count(name) > 1:
            raise EvalError(f"checkpoint name {name!r} is given {names.count(name)} times: names must differ")
