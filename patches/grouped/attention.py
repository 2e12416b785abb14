"""Attention of transformers that makes one KV head per query head, given fewer without its knowledge."""

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.pytorch_utils import Conv1D

from patches.grouped.cache import SharedHeads
from patches.grouped.layouts import Layout
from patches.grouped.packed import PACKED


class Repeat:
    """A forward hook: repeats the key and value heads that a projection made."""

    def __init__(self, layout: Layout, groups: int, head_dim: int):
        self.layout = layout
        self.groups = groups
        self.head_dim = head_dim

    def __call__(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return self.layout.repeat(output, self.groups, self.head_dim)


class GroupedAttention(nn.Module):
    """Goes before an attention class of transformers, whose ``forward`` runs as it is.

    The projections are made small. What they put out is repeated for the query heads that share it, and the
    cache keeps one of every group of equal heads. A module that takes the place of a projection (LoRA, a
    quantized one) takes and gives what the small one does, and is repeated in its turn.

    Attributes:
        layouts: How each projection that makes keys or values lays them out.

    Holds: logits and gradients of the model with the heads written out (tests/patches/test_grouped.py).
    """

    layouts: ClassVar[dict[str, Layout]]
    config: Any

    def __init__(self, config: PreTrainedConfig, layer_idx: int):
        """Build the attention of transformers, then shrink its projections.

        Args:
            config: Of a grouped model.
            layer_idx: Which layer this is.
        """
        super().__init__(config, layer_idx=layer_idx)
        self.config = config
        self.groups: int = config.kv_groups
        if self.groups > 1:
            for name, layout in self.layouts.items():
                setattr(self, name, _shrunk(getattr(self, name), layout, self.groups))

    def __setattr__(self, name: str, value: Any) -> None:
        # A hook stays with its module, but the outermost one in the projection's place is what must repeat.
        if name in self.layouts and isinstance(value, nn.Module) and getattr(self, "groups", 1) > 1:
            for inner in value.modules():
                _forget_repeat(inner)
            head_dim = self.config.hidden_size // self.config.num_attention_heads
            value.register_forward_hook(Repeat(self.layouts[name], self.groups, head_dim))
        super().__setattr__(name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the attention of transformers; a cache among the arguments stores ``K`` heads."""
        if self.groups > 1:
            args = tuple(self._shared(value) for value in args)
            kwargs = {name: self._shared(value) for name, value in kwargs.items()}
        return super().forward(*args, **kwargs)

    def _shared(self, value: Any) -> Any:
        if not isinstance(value, Cache):
            return value
        return SharedHeads(value, self.groups, self.takes_compact)

    def takes_compact(self, tokens: int) -> bool:
        """Whether so many queries of a row may attend to ``K`` stored heads as they are."""
        return tokens == 1 and self.config._attn_implementation == PACKED


def _forget_repeat(module: nn.Module) -> None:
    """Take the hook off a module that another one wraps, also off a copy of it, which copied the hook."""
    for key, hook in list(module._forward_hooks.items()):
        if isinstance(hook, Repeat):
            del module._forward_hooks[key]


def _shrunk(projection: nn.Module, layout: Layout, groups: int) -> nn.Module:
    """A projection of the same kind for fewer KV heads, its weights not yet set."""
    if isinstance(projection, Conv1D):
        inputs, outputs = projection.weight.shape
        return Conv1D(layout.features(outputs, groups), inputs)
    assert isinstance(projection, nn.Linear)
    outputs = layout.features(projection.out_features, groups)
    return type(projection)(projection.in_features, outputs, bias=projection.bias is not None)
