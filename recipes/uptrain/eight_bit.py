"""What is held in eight bits, which bitsandbytes does."""

from importlib.util import find_spec

from recipes.errors import RecipeError


def require_bitsandbytes(wanted: str, instead: str) -> None:
    """See that bitsandbytes is there.

    Args:
        wanted: What a recipe asks for that needs it.
        instead: What to say where it is not.

    Raises:
        RecipeError: it is not.
    """
    if find_spec("bitsandbytes") is None:
        raise RecipeError(
            f"{wanted} needs bitsandbytes, which is not installed (pip install bitsandbytes, or {instead})"
        )
