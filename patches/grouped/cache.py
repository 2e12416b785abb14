"""What a grouped model remembers: one of every group of equal heads, in whatever cache it was given."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache

from patches.cache.stored import StoredTokens


class GroupedCache(DynamicCache):
    """The growing cache of transformers, which can say how much it holds."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the stored keys and values hold."""
        stores = (getattr(layer, name, None) for layer in self.layers for name in ("keys", "values"))
        return sum(store.untyped_storage().nbytes() for store in stores if store is not None)


class SharedHeads:
    """A cache as attention with ``H`` KV heads sees it, while it stores ``K``.

    Everything but ``update`` is the cache's own.

    Holds: ``K / H`` of the bytes of the original, for every family (tests/patches/test_grouped.py).
    """

    def __init__(self, cache: Any, groups: int, takes_compact: Callable[[int], bool]):
        """Wrap a cache for the call of one layer.

        Args:
            cache: Any cache of transformers, or what can ``update`` as one.
            groups: ``G``, query heads of one KV head.
            takes_compact: Whether attention can use ``K`` heads for so many queries of a row.
        """
        self.cache = cache
        self.groups = groups
        self.takes_compact = takes_compact

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the new tokens and return all of them.

        Args:
            key_states: ``[B, H, T, D]``, equal within each group of ``G`` neighbours.
            value_states: ``[B, H, T, D]``, likewise.
            args: What the cache takes besides.
            kwargs: The same by name.

        Returns:
            Keys and values ``[B, H, N, D]``; ``[B, K, N, D]`` to attention that can use them.
        """
        keys, values = self.cache.update(
            key_states[:, :: self.groups], value_states[:, :: self.groups], *args, **kwargs
        )
        if isinstance(keys, StoredTokens) or self.takes_compact(key_states.shape[2]):
            # Attention that can read the former takes the heads as they are stored.
            return keys, values
        if keys.shape[2] == key_states.shape[2]:
            # Nothing was there before: what came in already has all heads.
            return key_states, value_states
        return keys.repeat_interleave(self.groups, dim=1), values.repeat_interleave(self.groups, dim=1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)
