"""Where the tokens of one forward pass stand in their rows.

Positions count from the first real token of a row: left padding has negative positions, and every rule of the
mask (``patches.attention.mask``) is said in positions.

Keys reach attention in one of four layouts, which follow from the numbers here alone:

- ``whole``: the keys of every column so far, in order. No cache, the first pass, and every global layer.
- ``chunk``: ``S`` sinks, the ``W - 1`` tokens before this pass in order, then the tokens of this pass.
- ``slots``: the slots of the cache in no particular order; those that are filled come first and are visible.
  One token after others.
- ``columns``: ``whole`` of a static cache, with the columns behind that no token has reached. One token.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from patches.policy import WindowPolicy
from patches.turning import Turn


@dataclass(frozen=True)
class Document:
    """Columns ``[begin, end)`` of one row, whose tokens see no others."""

    row: int
    begin: int
    end: int

    @property
    def length(self) -> int:
        """Tokens."""
        return self.end - self.begin


@dataclass(frozen=True)
class Step:
    """One forward pass of the model.

    Attributes:
        past: Columns that earlier passes have seen, padding included; ``[1]`` int64 in a decode step of a
            static cache, which knows them on the device alone.
        starts: ``[B]`` int64, the column of the first real token of each row. None: no row is padded.
        policy: The windows of the model's layers.
        documents: The documents of packed rows, in order; None where a row is one document.
        turn: How far queries are turned back for the sinks; None where distances are what they are.
        slots: ``[1 or B]`` int64, where window layers keep the token of such a decode step; else None.
    """

    past: int | Tensor
    starts: Tensor | None = None
    policy: WindowPolicy | None = None
    documents: tuple[Document, ...] | None = None
    turn: Turn | None = None
    slots: Tensor | None = None

    def to(self, device: torch.device) -> "Step":
        """The same with its tensors on ``device``."""
        moved: dict[str, Any] = {
            name: value.to(device)
            for name in ("past", "starts", "turn", "slots")
            if isinstance(value := getattr(self, name), Tensor | Turn)
        }
        if all(value is getattr(self, name) for name, value in moved.items()):
            return self
        return replace(self, **moved)

    @property
    def on_device(self) -> bool:
        """Whether the length is known on the device alone, so that nothing may depend on it on the host."""
        return isinstance(self.past, Tensor)

    @property
    def first(self) -> int | Tensor:
        """Position of the first new token: an int, or ``[1 or B]`` where it is a tensor."""
        return self.past if self.starts is None else self.past - self.starts

    def positions(self, tokens: int, device: torch.device) -> Tensor:
        """Where the new tokens stand in their rows or documents, ``[1 or B, T]`` int64."""
        if self.documents is None:
            return Frame(self, tokens, None, 0).query_positions(device)
        lengths = torch.tensor([document.length for document in self.documents])
        begins = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        return (torch.arange(len(begins)) - begins).reshape(-1, tokens).to(device)

    def rows(self, tokens: int) -> tuple[Document, ...]:
        """Every padded row of a first pass as the document in it; rows without a token are left out."""
        assert self.starts is not None and not self.on_device and self.past == 0
        begins = enumerate(self._begins)
        return tuple(Document(row, begin, tokens) for row, begin in begins if begin < tokens)

    @cached_property
    def _begins(self) -> list[int]:
        """``starts`` read from its device once for all layers."""
        return [] if self.starts is None else self.starts.tolist()


@dataclass(frozen=True)
class Frame:
    """One attention call: a step, the number of its queries, and the window of the layer.

    Attributes:
        step: The forward pass.
        tokens: ``T``, queries.
        window: ``W``; None in a global layer.
        sinks: ``S``; of no meaning in a global layer.
    """

    step: Step
    tokens: int
    window: int | None
    sinks: int

    @property
    def ragged(self) -> bool:
        """Whether positions are tensors: rows begin at different columns, or the device knows the length."""
        return self.step.starts is not None or self.step.on_device

    @property
    def layout(self) -> str:
        """``whole``, ``chunk``, ``slots`` or ``columns``, as the module says."""
        if self.step.on_device:
            return "columns" if self.window is None else "slots"
        if self.window is None or self.step.past == 0:
            return "whole"
        return "slots" if self.tokens == 1 else "chunk"

    @property
    def first(self) -> int | Tensor:
        """Position of the first query: an int, or ``[1 or B]`` when the rows are ragged."""
        return self.step.first

    def query_positions(self, device: torch.device) -> Tensor:
        """``[1 or B, T]`` int64."""
        return _column(self.first, device) + torch.arange(self.tokens, device=device)

    def filled(self, columns: int, device: torch.device) -> Tensor | None:
        """Which keys of a ``slots`` or ``columns`` call its query sees, ``[1 or B, N]`` bool; None: all.

        A row that is still padding sees one empty slot, because a softmax over nothing is NaN.
        """
        if not self.ragged:
            return None
        column = torch.arange(columns, device=device)
        if self.window is not None:
            return column < _column(self.first + 1, device).clamp(min=1)
        begins = 0 if self.step.starts is None else self.step.starts
        return (column >= _column(begins, device)) & (column <= _column(self.step.past, device))

    def key_positions(self, columns: int, device: torch.device) -> Tensor:
        """``[1 or B, N]`` int64, negative where a column holds no token of the row.

        Args:
            columns: ``N``, keys that the call was given.
            device: Where to build it.
        """
        if self.layout in ("whole", "columns"):
            begins = 0 if self.step.starts is None else self.step.starts
            return torch.arange(columns, device=device) - _column(begins, device)
        assert self.window is not None
        if self.layout == "slots":
            return slot_positions(self.first + 1, self.window, self.sinks, device)[:, :columns]
        sinks = torch.arange(self.sinks, device=device).expand(_column(self.first, device).shape[0], -1)
        recent = _column(self.first, device) + torch.arange(1 - self.window, self.tokens, device=device)
        return torch.cat([sinks, recent.masked_fill(recent < self.sinks, -1)], dim=1)


def slot_positions(length: int | Tensor, window: int, sinks: int, device: torch.device) -> Tensor:
    """Which position each slot of a sinks + ring cache holds once ``length`` tokens of a row were written.

    Args:
        length: Tokens of the row, an int or ``[B]``; at most 0 while only padding has passed.
        window: ``W``, slots of the ring.
        sinks: ``S``, slots before it.
        device: Where to build it.

    Returns:
        ``[1 or B, S + W]`` int64, -1 for a slot that is still empty.
    """
    last = _column(length, device) - 1
    ring = torch.arange(window, device=device)
    newest = last - (last - sinks - ring) % window
    sink = torch.arange(sinks, device=device).expand(last.shape[0], -1)
    held = torch.cat([sink, newest.masked_fill(newest < sinks, -1)], dim=1)
    return held.masked_fill(held > last, -1)


def slot_of(position: int | Tensor, window: int, sinks: int) -> int | Tensor:
    """The slot of a sinks + ring cache that a position owns, an int or ``[1 or B]``; 0 for padding."""
    if isinstance(position, int):
        return position if position < sinks else sinks + (position - sinks) % window
    return torch.where(position < sinks, position.clamp(min=0), sinks + (position - sinks) % window)


def filled_slots(length: int | Tensor, window: int, sinks: int) -> int | Tensor:
    """How many slots hold a token; slots fill from the first to the last, so these are the leading ones."""
    if isinstance(length, int):
        return min(length, sinks + window)
    return length.clamp(max=sinks + window)


def _column(value: int | Tensor, device: torch.device) -> Tensor:
    """``[1 or B, 1]`` from an int or ``[B]``."""
    return torch.as_tensor(value, device=device).reshape(-1, 1)
