"""Weights that transformers knows by an older name, found by our classes too."""

from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)


def adopt_weight_names(model_class: type) -> None:
    """Register the renamings of a class of transformers for a subclass of ours.

    transformers looks them up by the name of the class. Without them a weight under its old name, such as the
    ``embed_out`` of GPT-NeoX, is left out with a warning and drawn at random.

    Args:
        model_class: The subclass.

    Holds: results computed from the hub's names (tests/convert/test_other_architectures.py).
    """
    for parent in model_class.__mro__[1:]:
        renamings = get_checkpoint_conversion_mapping(parent.__name__)
        if renamings is not None:
            register_checkpoint_conversion_mapping(model_class.__name__, renamings, overwrite=True)
            return
