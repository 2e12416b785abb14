"""Windows for an architecture that has no key for KV heads: what its config and its attention then do."""

from typing import Any, ClassVar

from torch import Tensor

from patches.config import WindowedConfigMixin
from patches.grouped.attention import GroupedAttention
from patches.grouped.cache import SharedHeads
from patches.grouped.config import FewerHeadsConfigMixin


class GroupedWindowConfigMixin(FewerHeadsConfigMixin, WindowedConfigMixin):
    """Of a windowed model, every query head of which has a KV head unless the config says otherwise."""

    def __post_init__(self, **kwargs: Any) -> None:
        if kwargs.get("num_key_value_heads") is None:
            kwargs["num_key_value_heads"] = self.num_attention_heads
        super().__post_init__(**kwargs)

    @property
    def may_lack_a_window(self) -> bool:
        """Fewer KV heads, too, are more than the architecture itself has."""
        return super().may_lack_a_window or self.kv_groups > 1


class GroupedWindowAttention(GroupedAttention):
    """Grouped attention whose backends read ``K`` heads as they are, with a cache and without.

    Attributes:
        cache_argument: What ``forward`` calls the cache.
    """

    cache_argument: ClassVar[str] = "past_key_values"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the attention of transformers, but that its attention function gets ``K`` heads.

        Args:
            args: Of the attention of transformers, without the cache.
            kwargs: The same by name, the cache too.
        """
        if self.groups > 1 and kwargs.get(self.cache_argument) is None:
            kwargs[self.cache_argument] = SharedHeads(Unkept(), self.groups, self.takes_compact)
        return super().forward(*args, **kwargs)

    def takes_compact(self, tokens: int) -> bool:
        """Always: every backend has its own way to share a KV head."""
        return True


class Unkept:
    """In the place of a cache, where there is none: hands out what it gets and keeps nothing."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The new tokens, ``[B, K, T, D]`` each."""
        return key_states, value_states
