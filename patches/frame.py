"""Where the tokens of one forward pass stand in their rows.

Positions count from the first real token of a row: left padding has negative positions, and every rule of the
mask (``patches.attention.mask``) is said in positions.

Keys reach attention in one of three layouts, which follow from the numbers here alone:

- ``whole``: the keys of every column so far, in order. No cache, the first pass, and every global layer.
- ``chunk``: ``S`` sinks, the ``W - 1`` tokens before this pass in order, then the tokens of this pass.
- ``slots``: the slots of the cache in no particular order, all of them visible. One token after others.
"""

from dataclasses import dataclass, replace
from functools import cached_property

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
        past: Columns that earlier passes have seen, padding included.
        starts: ``[B]`` int64, the column of the first real token of each row. None: no row is padded.
        policy: The windows of the model's layers.
        documents: The documents of packed rows, in order; None where a row is one document.
        turn: How far queries are turned back for the sinks; None where distances are what they are.
    """

    past: int
    starts: Tensor | None = None
    policy: WindowPolicy | None = None
    documents: tuple[Document, ...] | None = None
    turn: Turn | None = None

    def to(self, device: torch.device) -> "Step":
        """The same with its tensors on ``device``."""
        starts = None if self.starts is None else self.starts.to(device)
        turn = None if self.turn is None else self.turn.to(device)
        return (
            self if starts is self.starts and turn is self.turn else replace(self, starts=starts, turn=turn)
        )

    def positions(self, tokens: int, device: torch.device) -> Tensor:
        """Where the new tokens stand in their rows or documents, ``[1 or B, T]`` int64."""
        if self.documents is None:
            return Frame(self, tokens, None, 0).query_positions(device)
        lengths = torch.tensor([document.length for document in self.documents])
        begins = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        return (torch.arange(len(begins)) - begins).reshape(-1, tokens).to(device)

    def rows(self, tokens: int) -> tuple[Document, ...]:
        """Every padded row of a first pass as the document in it; rows without a token are left out."""
        assert self.starts is not None and self.past == 0
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
        """Whether rows begin at different columns."""
        return self.step.starts is not None

    @property
    def layout(self) -> str:
        """``whole``, ``chunk`` or ``slots``, as the module says."""
        if self.window is None or self.step.past == 0:
            return "whole"
        return "slots" if self.tokens == 1 else "chunk"

    @property
    def first(self) -> int | Tensor:
        """Position of the first query: an int, or ``[B]`` when the rows are ragged."""
        return self.step.past if self.step.starts is None else self.step.past - self.step.starts

    def query_positions(self, device: torch.device) -> Tensor:
        """``[1 or B, T]`` int64."""
        return _column(self.first, device) + torch.arange(self.tokens, device=device)

    def key_positions(self, columns: int, device: torch.device) -> Tensor:
        """``[1 or B, N]`` int64, negative where a column holds no token of the row.

        Args:
            columns: ``N``, keys that the call was given.
            device: Where to build it.
        """
        if self.layout == "whole":
            return _column(self.first, device) + torch.arange(-self.step.past, self.tokens, device=device)
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


def filled_slots(length: int | Tensor, window: int, sinks: int) -> int | Tensor:
    """How many slots hold a token; slots fill from the first to the last, so these are the leading ones."""
    if isinstance(length, int):
        return min(length, sinks + window)
    return length.clamp(max=sinks + window)


def _column(value: int | Tensor, device: torch.device) -> Tensor:
    """``[1 or B, 1]`` from an int or ``[B]``."""
    return torch.as_tensor(value, device=device).reshape(-1, 1)
