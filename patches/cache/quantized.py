"""Layers whose older tokens are codes, in blocks that are made once; sinks and recent tokens stay exact."""

from typing import Any

import torch
from torch import Tensor

from patches.cache.codes import KEY_CODES, KEY_GRIDS, Coding
from patches.cache.compressed import CompressedLayer
from patches.cache.quantized_reading import Division, Reading
from patches.cache.stored import PIECE, Stored
from patches.frame import slot_of, slot_positions
from patches.policy import PolicyError

EXACT = ("keys", "values")


class QuantizedLayer(CompressedLayer):
    """A growing layer: ``sinks + residual + block`` slots for exact tokens, and blocks of codes.

    Which tokens are codes follows from the length of the row alone, so a padded row keeps what it would keep
    alone. A token is written into the slot of one that has become a code.

    Holds: codes never change, and bytes are those of the formula (tests/patches/test_quantized.py).
    """

    def __init__(self, coding: Coding, division: Division):
        """Make an empty layer.

        Args:
            coding: What codes mean.
            division: Which tokens are codes.
        """
        super().__init__()
        self.coding = coding
        self.division = division
        self.begins: tuple[int, ...] = ()
        self.furthest = 0

    def allocate(self, key_states: Tensor, value_states: Tensor) -> None:
        """The slots of exact tokens, and what blocks there are from the beginning."""
        slots = self.division.sinks + self.division.ring
        for name, states in zip(EXACT, (key_states, value_states), strict=True):
            self.parts[name] = states.new_zeros(*states.shape[:2], slots, states.shape[3])
        self.parts |= self.coding.room(key_states, value_states, self.division.blocks or 0)

    def take_in(
        self, new: tuple[Tensor, Tensor], first: list[int], starts: Tensor | None, past: int
    ) -> Stored:
        """Store the tokens of a pass, with the blocks that they complete; see ``CompressedLayer``."""
        length = past if starts is None else past - starts
        reading = Reading(self.division, self.coding, dict(self.parts), length, max(first))
        # What was stored under inference mode must still be writable outside of it.
        with torch.inference_mode(False):
            tokens = new[0].shape[2]
            self._make_room(self.division.coded(max(first) + tokens) // self.division.block, tokens)
            for rows, begin in _alike(first):
                self._encode(new, rows, begin)
            self._write_one(new, length) if tokens == 1 else self._write(new, length)
        self.begins = tuple(past - begin for begin in first)
        self.furthest = max(self.furthest, self.seen)
        return Stored(past, starts, new, reading.pieces, reading.decode)

    def check_kept(self, kept: int, seen: int) -> None:
        """Refuse to go back where a token would have to be exact again that is not.

        Raises:
            PolicyError: a row has such a token.
        """
        for begin in self.begins:
            if kept < seen and not self._has(kept - begin, self.furthest - begin):
                raise PolicyError(
                    f"cannot go back to {kept} of {seen} tokens: the {self.division.residual} most recent "
                    f"ones must be exact, and of some there are only codes of {self.coding.bits} bits left"
                )

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; see ``check_kept``.

        Args:
            tokens_to_remove: How many, as a negative number.
        """
        kept = max(self.seen - abs(tokens_to_remove), 0)
        self.check_kept(kept, self.seen)
        self.seen = kept
        if self.is_initialized:
            self._make_room(max(self.division.coded(kept - b) for b in self.begins) // self.division.block, 0)

    def reset(self) -> None:
        """Forget everything and give up the memory."""
        super().reset()
        self.begins, self.furthest = (), 0

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times."""
        super().batch_repeat_interleave(repeats)
        self.begins = tuple(begin for begin in self.begins for _ in range(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows ``indices``."""
        super().batch_select_indices(indices)
        if self.begins:
            self.begins = tuple(self.begins[index] for index in indices.tolist())

    def _has(self, length: int, furthest: int) -> bool:
        """Whether a row that came to ``furthest`` tokens still has all that one of ``length`` tokens has."""
        begin = self.division.sinks + self.division.coded(length)
        return length <= self.division.sinks or begin >= furthest - self.division.ring

    def _make_room(self, blocks: int, tokens: int) -> None:
        """Hold just so many blocks of codes, before ``tokens`` tokens come."""
        held = self.parts[KEY_GRIDS].shape[2]
        if blocks == held:
            return
        fresh = self.coding.room(self.parts["keys"], self.parts["values"], blocks)
        for name, part in fresh.items():
            kept = min(part.shape[2], self.parts[name].shape[2])
            part[:, :, :kept] = self.parts[name][:, :, :kept]
            self.parts[name] = part

    def _encode(self, new: tuple[Tensor, Tensor], rows: slice, first: int) -> None:
        """Turn into codes the blocks that new tokens complete, some at a time.

        Args:
            new: Keys and values ``[B, K, T, D]``.
            rows: Of the batch, all of the same length.
            first: Tokens of these rows before the new ones; below 0 where padding comes first.
        """
        division, room = self.division, self.parts[KEY_CODES].shape[2]
        due = division.coded(first + new[0].shape[2])
        low = max(division.coded(first), due - room)
        step = max(PIECE // division.block, 1) * division.block
        while low < due:
            at = low % room
            high = min(due, low + step, low + room - at)
            tokens = (
                self._tokens(name, states, rows, first, low, high)
                for name, states in zip(EXACT, new, strict=True)
            )
            for name, part in self.coding.encode(*tokens).items():
                begin = at // division.block if name == KEY_GRIDS else at
                self.parts[name][rows, :, begin : begin + part.shape[2]] = part
            low = high

    def _tokens(self, name: str, new: Tensor, rows: slice, first: int, low: int, high: int) -> Tensor:
        """Tokens ``[low, high)`` behind the sinks, of which those before ``first`` are in the slots."""
        sinks, ring = self.division.sinks, self.division.ring
        low, high = low + sinks, high + sinks
        fresh = new[rows, :, max(low - first, 0) : max(high - first, 0)]
        if low >= first:
            return fresh
        held = torch.arange(low, min(high, first), device=new.device)
        slots = sinks + (held - sinks) % ring
        return torch.cat([self.parts[name][rows].index_select(2, slots), fresh], dim=2)

    def _write_one(self, new: tuple[Tensor, Tensor], position: Any) -> None:
        """One token per row, in place: its slot holds none that a query of this pass reads."""
        slots = slot_of(position, self.division.ring, self.division.sinks)
        for name, states in zip(EXACT, new, strict=True):
            store, token = self.parts[name], states[:, :, 0]
            if isinstance(position, int):
                store[:, :, slots] = token
                continue
            rows = torch.arange(store.shape[0], device=store.device)
            padding = (position < 0)[:, None, None]
            store[rows, :, slots] = torch.where(padding, store[rows, :, slots], token)

    def _write(self, new: tuple[Tensor, Tensor], first: Any) -> None:
        """Many tokens, into tensors of their own: every slot takes the newest that belongs to it."""
        tokens, ring, sinks = new[0].shape[2], self.division.ring, self.division.sinks
        held = slot_positions(first + tokens, ring, sinks, new[0].device)
        column = held - torch.as_tensor(first, device=held.device).reshape(-1, 1)
        fresh = ((held >= 0) & (column >= 0))[:, None, :, None]
        column = column.clamp(0, tokens - 1)
        for name, states in zip(EXACT, new, strict=True):
            if column.shape[0] == 1:
                chosen = states.index_select(2, column[0])
            else:
                index = column[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
                chosen = states.gather(2, index)
            self.parts[name] = torch.where(fresh, chosen, self.parts[name])


def _alike(first: list[int]) -> list[tuple[slice, int]]:
    """Rows with the number of tokens before a pass, together where all have as many."""
    if len(set(first)) == 1:
        return [(slice(None), first[0])]
    return [(slice(row, row + 1), begin) for row, begin in enumerate(first)]
