"""What TensorBoard shows, which the package of that name writes."""

from importlib.util import find_spec

from recipes.errors import RecipeError


def require_tensorboard() -> None:
    """See that tensorboard is there.

    Raises:
        RecipeError: it is not.
    """
    if find_spec("tensorboard") is None:
        raise RecipeError(
            "uptrain.tensorboard=true needs the package tensorboard: pip install headroom[tensorboard]"
        )
