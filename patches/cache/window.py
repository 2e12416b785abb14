"""The cache of a window layer: sinks, then a ring, allocated once."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from patches.cache.layer import CacheLayer
from patches.cache.layout import Layout
from patches.frame import Frame, Step, filled_slots, slot_of, slot_positions
from patches.policy import PolicyError


class WindowLayer(CacheLayer):
    """``S`` sink slots and a ring of ``W`` slots per row.

    Every row has its own length, so a padded row keeps the very tokens that it would keep alone.

    Holds: never more than its bytes, and what it hands out is what the mask needs, in every layout of memory
    (tests/patches/test_cache.py, tests/patches/test_layouts.py).
    """

    is_croppable = False

    def __init__(self, window: int, sinks: int, layout: Layout | None = None):
        """Make an empty layer.

        Args:
            window: ``W``, tokens.
            sinks: ``S``, tokens.
            layout: As ``CacheLayer``.
        """
        super().__init__(layout)
        self.window = window
        self.sinks = sinks

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,
        starts: Tensor | None = None,
        in_pass: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Store the new tokens and return what their queries may need, in the layout that ``patches.frame``
        names.

        Args:
            key_states: ``[B, K, T, D]``, rotated.
            value_states: ``[B, K, T, D]``.
            args: Not used.
            starts: ``[B]``, the first real column of each row; None when no row is padded.
            in_pass: Whether attention of ours reads what is returned, so that it may write the token too.
            kwargs: Not used.

        Returns:
            Keys and values ``[B, K, N, D]``.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        frame = Frame(Step(self.seen, starts), key_states.shape[2], self.window, self.sinks)
        self.seen += frame.tokens
        return self._take_in(key_states, value_states, frame, in_pass)

    def _take_in(
        self, key_states: Tensor, value_states: Tensor, frame: Frame, in_pass: bool
    ) -> tuple[Tensor, Tensor]:
        """Store tokens of which the host knows how many came before; arguments and result of ``update``."""
        assert isinstance(frame.step.past, int)
        new = (key_states.detach(), value_states.detach())
        if frame.layout == "slots":
            filled = filled_slots(frame.step.past + 1, self.window, self.sinks)
            keys, values = (store[:, :, :filled] for store in self.stores)
            if isinstance(frame.first, int):
                slot = slot_of(frame.first, self.window, self.sinks)
                return self._hand_out((keys, values), new, slot, in_pass)
            self._write(new, frame)
            return keys, values
        if frame.layout == "whole":
            self._write(new, frame)
            return key_states, value_states
        chunk = [
            self._join(store[:, :, : self.sinks], *self._recent(store, frame), states)
            for store, states in zip(self.stores, (key_states, value_states), strict=True)
        ]
        self._write(new, frame)
        for joined, store in zip(chunk, self.stores, strict=True):
            # Some of the new tokens may be sinks.
            joined[:, :, : self.sinks] = store[:, :, : self.sinks]
        return chunk[0], chunk[1]

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

    def _columns(self, tokens: int) -> int:
        return self.sinks + self.window

    def _write(self, new: tuple[Tensor, Tensor], frame: Frame) -> None:
        """Every slot takes the newest token that belongs to it, if that is among the new ones."""
        if isinstance(frame.first, int):
            for slot, column, length in _stretches(frame.first, frame.tokens, self.window, self.sinks):
                for store, tokens in zip(self.stores, new, strict=True):
                    store[:, :, slot : slot + length] = tokens[:, :, column : column + length]
        elif frame.tokens == 1:
            self._write_one(new, frame.first)
        else:
            self._write_many(new, frame.first, frame.tokens)

    def _write_one(self, new: tuple[Tensor, Tensor], position: Tensor) -> None:
        """One token per row, at ``position`` ``[B]``."""
        slots = slot_of(position, self.window, self.sinks)
        rows = torch.arange(position.shape[0], device=position.device)
        padding = (position < 0)[:, None, None]
        for store, token in zip(self.stores, new, strict=True):
            store[rows, :, slots] = torch.where(padding, store[rows, :, slots], token[:, :, 0])

    def _write_many(self, new: tuple[Tensor, Tensor], first: Tensor, count: int) -> None:
        """``count`` tokens per row, from position ``first`` ``[B]`` on."""
        held = slot_positions(first + count, self.window, self.sinks, self.device)
        column = held - first[:, None]
        fresh = (held >= 0) & (column >= 0)
        for store, tokens in zip(self.stores, new, strict=True):
            chosen = _take(tokens, column.clamp(0, count - 1))
            torch.where(fresh[:, None, :, None], chosen, store, out=store)

    def _recent(self, store: Tensor, frame: Frame) -> list[Tensor]:
        """The ``W - 1`` tokens before the new ones in order, as stretches; noise where none is."""
        if isinstance(frame.first, int):
            # All of the ring, from the slot behind the one that the next token takes, around to that one.
            oldest = self.sinks + (frame.first - self.sinks) % self.window
            return [store[:, :, oldest + 1 :], store[:, :, self.sinks : oldest]]
        position = frame.first[:, None] + torch.arange(1 - self.window, 0, device=self.device)
        return [_take(store, self.sinks + (position - self.sinks) % self.window)]


def _stretches(first: int, tokens: int, window: int, sinks: int) -> Iterator[tuple[int, int, int]]:
    """Where the newest tokens of every slot go, as stretches that lie together.

    Args:
        first: Position of the first token.
        tokens: How many follow each other.
        window: ``W``.
        sinks: ``S``.

    Yields:
        The first slot, the column of the token that goes there, and the length: at most the sinks and two
        parts of the ring.
    """
    end = first + tokens
    for position, stop in ((first, min(end, sinks)), (max(first, sinks, end - window), end)):
        while position < stop:
            slot = slot_of(position, window, sinks)
            assert isinstance(slot, int)
            length = min(stop - position, (sinks if position < sinks else sinks + window) - slot)
            yield slot, position - first, length
            position += length


def _take(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens ``index`` ``[B, M]`` of every row of ``[B, K, N, D]``."""
    batch, heads, _, dim = tokens.shape
    return tokens.gather(2, index[:, None, :, None].expand(batch, heads, -1, dim))
