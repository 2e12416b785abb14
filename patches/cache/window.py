"""The cache of a window layer: sinks, then a ring, allocated once."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from patches.frame import Frame, Step, filled_slots, slot_of, slot_positions
from patches.policy import PolicyError


class WindowLayer(CacheLayerMixin):
    """``S`` sink slots and a ring of ``W`` slots per row, ``[B, S + W, K, D]``.

    Tokens come first in memory, so that one token is written in one place and FlashAttention reads the cache
    without a copy; callers see transposed views. Every row has its own length, so a padded row keeps the
    very tokens that it would keep alone. To autograd the cached tokens are constants.

    Holds: never more than its bytes, and what it hands out is what the mask needs
    (tests/patches/test_cache.py).
    """

    is_sliding = False
    is_compileable = False
    is_croppable = False

    def __init__(self, window: int, sinks: int):
        """Make an empty layer.

        Args:
            window: ``W``, tokens.
            sinks: ``S``, tokens.
        """
        super().__init__()
        self.window = window
        self.sinks = sinks
        self.seen = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the slots for the batch, heads, dtype and device of the first tokens, ``[B, K, T, D]``."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (self._slots(states) for states in (key_states, value_states))
        self.is_initialized = True

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,
        starts: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Store the new tokens and return what their queries may need, in the layout that ``patches.frame``
        names.

        Args:
            key_states: ``[B, K, T, D]``, rotated.
            value_states: ``[B, K, T, D]``.
            args: Not used.
            starts: ``[B]``, the first real column of each row; None when no row is padded.
            kwargs: Not used.

        Returns:
            Keys and values ``[B, K, N, D]``.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        frame = Frame(Step(self.seen, starts), key_states.shape[2], self.window, self.sinks)
        self.seen += frame.tokens
        return self._take_in(key_states, value_states, frame)

    def _take_in(self, key_states: Tensor, value_states: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
        """Store tokens of which the host knows how many came before; arguments and result of ``update``."""
        assert isinstance(frame.step.past, int)
        new = (key_states.detach().transpose(1, 2), value_states.detach().transpose(1, 2))
        if frame.layout == "slots":
            self._write_one(new, frame)
            filled = filled_slots(frame.step.past + 1, self.window, self.sinks)
            keys, values = (store[:, :filled].transpose(1, 2) for store in self.stores)
            return keys, values
        if frame.layout == "whole":
            self._write(new, frame)
            return key_states, value_states
        before = self._recent(frame)
        self._write(new, frame)
        keys, values = (
            torch.cat([store[:, : self.sinks], old, fresh.transpose(1, 2)], dim=1).transpose(1, 2)
            for store, old, fresh in zip(self.stores, before, (key_states, value_states), strict=True)
        )
        return keys, values

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens, which is possible only while nothing has been overwritten.

        Args:
            tokens_to_remove: How many, as a negative number.

        Raises:
            PolicyError: the ring has wrapped; older tokens that the window would show again are gone.
        """
        kept = max(self.seen - abs(tokens_to_remove), 0)
        self.check_kept(kept, self.seen)
        self.seen = kept

    def check_kept(self, kept: int, seen: int) -> None:
        """Refuse to go back to ``kept`` of ``seen`` tokens once the ring has wrapped.

        Raises:
            PolicyError: older tokens that the window would show again are gone.
        """
        if kept < seen and seen > self.window + self.sinks:
            raise PolicyError(
                f"cannot go back to {kept} of {seen} tokens: the cache keeps {self.sinks} sinks "
                f"and the last {self.window} tokens, and those before are overwritten (crop works up to "
                f"{self.window + self.sinks} tokens)"
            )

    def reset(self) -> None:
        """Forget everything and keep the memory."""
        super().reset()
        self.seen = 0

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times."""
        if self.is_initialized:
            self.keys, self.values = (store.repeat_interleave(repeats, dim=0) for store in self.stores)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows ``indices``."""
        if self.is_initialized:
            self.keys, self.values = (store[indices] for store in self.stores)

    def get_seq_length(self) -> int:
        """Tokens seen, not tokens kept."""
        return self.seen

    def get_max_length(self) -> int:
        """-1: any length may pass through."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As if every token were kept; the mask does not come from here."""
        return self.seen + query_length, 0

    @property
    def stores(self) -> tuple[Tensor, Tensor]:
        """Keys and values as they lie in memory, ``[B, S + W, K, D]`` each."""
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def _slots(self, states: Tensor) -> Tensor:
        batch, heads, _, dim = states.shape
        # A cache that was first filled under inference mode must still be writable outside of it.
        with torch.inference_mode(False):
            return torch.zeros(
                batch, self.sinks + self.window, heads, dim, dtype=states.dtype, device=states.device
            )

    def _write_one(self, new: tuple[Tensor, Tensor], frame: Frame) -> None:
        """One token per row, in place, into the slot that its position owns."""
        position = frame.first
        slots = slot_of(position, self.window, self.sinks)
        if isinstance(position, int) or isinstance(slots, int):
            for store, token in zip(self.stores, new, strict=True):
                store[:, slots] = token[:, 0]
            return
        rows = torch.arange(slots.shape[0], device=slots.device)
        padding = (position < 0)[:, None, None]
        for store, token in zip(self.stores, new, strict=True):
            store[rows, slots] = torch.where(padding, store[rows, slots], token[:, 0])

    def _write(self, new: tuple[Tensor, Tensor], frame: Frame) -> None:
        """Many tokens: every slot takes the newest that belongs to it, if that is among the new ones."""
        held = slot_positions(frame.first + frame.tokens, self.window, self.sinks, self.device)
        column = held - torch.as_tensor(frame.first, device=self.device).reshape(-1, 1)
        fresh = (held >= 0) & (column >= 0)
        for store, tokens in zip(self.stores, new, strict=True):
            chosen = _take(tokens, column.clamp(0, frame.tokens - 1))
            torch.where(fresh[..., None, None], chosen, store, out=store)

    def _recent(self, frame: Frame) -> list[Tensor]:
        """The ``W - 1`` tokens before the new ones in order, ``[B, W - 1, K, D]``; noise where none is."""
        first = torch.as_tensor(frame.first, device=self.device).reshape(-1, 1)
        position = first + torch.arange(1 - self.window, 0, device=self.device)
        slot = self.sinks + (position - self.sinks) % self.window
        return [_take(store, slot) for store in self.stores]


def _take(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens ``index`` (``[1 or B, M]``) of every row of ``[B, N, K, D]``."""
    if index.shape[0] == 1:
        return tokens.index_select(1, index[0])
    return tokens.gather(1, index[..., None, None].expand(-1, -1, *tokens.shape[2:]))
