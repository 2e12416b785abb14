"""Decoder layers of transformers that keep from their attention what they do not know themselves."""

import threading
from typing import Any, ClassVar

from torch import nn
from transformers import PreTrainedConfig

# Of each thread, because threads may share a model.
_under_way = threading.local()


class PassingLayer(nn.Module):
    """Goes before a decoder layer that drops the step. Gradient checkpointing runs all of this again."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the layer of transformers."""
        _under_way.step = kwargs.get("window_step")
        return super().forward(*args, **kwargs)


class PassingMixin:
    """Goes before ``WindowedModelMixin`` where the layers' ``forward`` does not pass its ``kwargs`` on.

    Attributes:
        layer_class: ``PassingLayer`` and the layer of transformers, by the name of the latter, which is what
            keeps a layer on one device.

    Holds: compiled, checkpointed and in threads (tests/patches/test_passing.py).
    """

    layer_class: ClassVar[type[PassingLayer]]
    attention_name: ClassVar[str]
    layers: Any

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)  # type: ignore[call-arg]
        for layer in self.layers:
            layer.__class__ = self.layer_class
            getattr(layer, self.attention_name).register_forward_pre_hook(_take, with_kwargs=True)


def _take(_attention: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    step = getattr(_under_way, "step", None)
    _under_way.step = None
    return args, kwargs | {"window_step": step}
