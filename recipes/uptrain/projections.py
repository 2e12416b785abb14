"""What a recipe's projections are called in a model: ``q_proj`` of Pythia is in ``query_key_value``."""

from collections.abc import Iterable

from convert import ConvertError
from convert.families import find_family
from recipes.errors import RecipeError
from recipes.schema.uptrain import Projection

OWN_CLASS = "windowed_"
RENAMED = {"gpt_bigcode": "gpt2"}
"""Architectures that ``convert`` writes and does not read, and a family with the same names."""


def module_names(model_type: str, projections: Iterable[Projection]) -> list[str]:
    """The ends of the module paths that compute some projections.

    Args:
        model_type: Of the model, of any tier.
        projections: As a recipe says them.

    Returns:
        Each module once: ``self_attn.q_proj``, ``attention.query_key_value``.

    Raises:
        RecipeError: the family is not known.
    """
    plain = model_type.removeprefix(OWN_CLASS)
    try:
        family = find_family({"model_type": RENAMED.get(plain, plain)})
    except ConvertError as error:
        raise RecipeError(f"uptrain.lora: {error}") from None
    computed = family.layout.projections
    names = []
    for projection in projections:
        role = projection[0]
        made_by = [name for name, roles in computed.items() if role in roles] or [family.layout.output]
        names += [f"{family.attention}.{name}" for name in made_by]
    return list(dict.fromkeys(names))


def split_names(
    model_type: str, targets: Iterable[Projection], full: Iterable[Projection]
) -> tuple[list[str], list[str]]:
    """Module names of the targets of LoRA and of the projections that are trained whole.

    Raises:
        RecipeError: the family is not known, or one of its modules computes projections of both kinds.
    """
    low_rank, whole = module_names(model_type, targets), module_names(model_type, full)
    both = sorted(set(low_rank) & set(whole))
    if both:
        raise RecipeError(
            f"uptrain.lora: a {model_type} has queries, keys and values in one projection ({both[0]}); name "
            "them all in targets or all in full"
        )
    return low_rank, whole
