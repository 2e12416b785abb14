"""Global layers that grow: every token, written in place into memory that has some room left."""

from typing import Any

from torch import Tensor

from patches.cache.layer import CacheLayer
from patches.cache.room import room


class GrowingLayer(CacheLayer):
    """All columns in order, of which ``seen`` are filled.

    A token costs its own write, not a copy of the cache: memory is taken as ``patches.cache.room`` says, and
    all is copied only when that is full. At that moment the old and the new room of the keys, then of the
    values, exist at once.

    Holds: the bytes are those of ``room``, and nothing moves within one (tests/patches/test_growing.py).
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the new tokens and return all columns.

        Args:
            key_states: ``[B, K, T, D]``, rotated.
            value_states: ``[B, K, T, D]``.
            args: Not used.
            kwargs: Not used.

        Returns:
            Keys and values ``[B, K, past + T, D]``.
        """
        states = (key_states, value_states)
        return self._so_far(self._store(*states), states)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens and keep the memory.

        Args:
            tokens_to_remove: How many, as a negative number.
        """
        self.seen = max(self.seen - abs(tokens_to_remove), 0)

    def reset(self) -> None:
        """Forget everything and give up the memory."""
        self.keys = self.values = None
        self.is_initialized, self.seen = False, 0

    def _columns(self, tokens: int) -> int:
        return room(tokens)

    def _store(self, key_states: Tensor, value_states: Tensor) -> int:
        """Write new tokens behind those before, and return how many those are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past, end = self.seen, self.seen + key_states.shape[2]
        if end > self.stores[0].shape[2]:
            self._replace(lambda store: self._grown(store, room(end)))
        for store, new in zip(self.stores, (key_states, value_states), strict=True):
            self._put(store, past, new.detach())
        self.seen = end
        return past

    def _grown(self, store: Tensor, columns: int) -> Tensor:
        grown = self._allocate(store, len(store), columns)
        grown[:, :, : self.seen] = store[:, :, : self.seen]
        return grown

    def _put(self, store: Tensor, begin: int, new: Tensor) -> None:
        """Write new tokens from column ``begin`` on."""
        store[:, :, begin : begin + new.shape[2]] = new
