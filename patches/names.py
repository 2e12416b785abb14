"""The names of a checkpoint's tensors: those of the class of transformers that a class of ours comes from."""

from typing import Any

from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)


class StockNames:
    """A model whose checkpoints name their tensors as the model of transformers behind it.

    transformers renames and stacks tensors (experts, above all) by the name of the class or its
    ``model_type``, and knows neither of ours.
    """

    config_class: Any

    def __init_subclass__(cls, **options: Any) -> None:
        """Register the class with what transformers has for its class there."""
        super().__init_subclass__(**options)
        stock: Any = next((base for base in cls.__mro__ if base.__module__.startswith("transformers.")), None)
        if stock is None:
            return
        for theirs, ours in (
            (stock.__name__, cls.__name__),
            (stock.config_class.model_type, cls.config_class.model_type),
        ):
            names = get_checkpoint_conversion_mapping(theirs)
            if names is not None:
                register_checkpoint_conversion_mapping(ours, names, overwrite=True)
