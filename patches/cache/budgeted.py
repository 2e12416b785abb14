"""Layers that keep a budget of tokens in every KV head, chosen by the attention that they received."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from patches.cache.budget import Budget
from patches.cache.policies.policy import Place
from patches.cache.slots import SlottedLayer
from patches.cache.stored import PIECE, Piece, Stored
from patches.policy import PolicyError


@dataclass(frozen=True)
class Exchange:
    """Which slots the tokens of a pass take over.

    Attributes:
        slots: ``[B, K, M]`` int64, ``M`` slots, those that are given up first.
        columns: ``[B, K, M]`` int64, the token of the pass that each of them takes.
        takes: ``[B, K, M]`` bool, whether it does.
        evicts: ``[B, K, M]`` bool, whether a token of the row leaves it.
        passes: ``[B, K, T]`` bool, tokens of the pass that get no slot.
        ends: ``[1 or B, 1, 1]`` int64, tokens of the row after the pass; below 1 in a row that has not begun.
    """

    slots: Tensor
    columns: Tensor
    takes: Tensor
    evicts: Tensor
    passes: Tensor
    ends: Tensor


class BudgetedLayer(SlottedLayer):
    """A layer of ``N`` slots per row and KV head, each with one token, in no order.

    A pass attends to everything kept and to its own tokens. Then it is known what weight each of them
    received, and those with the least in sum go: every KV head decides for itself, by the queries of all
    heads that share it. Beside its slots a layer holds the tokens of one pass, while that pass runs.

    Source: H2O, arXiv 2306.14048, section 4.
    Holds: scores are those of attention in full, and the tokens those of a plain reference
    (tests/patches/test_eviction.py).
    """

    noted: ClassVar = {"positions": (-1, torch.int32), "scores": (0, torch.float32)}

    def __init__(self, budget: Budget, place: Place):
        """As ``SlottedLayer``."""
        super().__init__(budget, place)
        self.unread = False
        self.evicted = False

    def take_in(
        self, new: tuple[Tensor, Tensor], first: list[int], starts: Tensor | None, past: int
    ) -> Stored:
        """Show what is kept; store the new tokens once attention has said what weight each received.

        Raises:
            PolicyError: it has not said so of the pass before.
        """
        if self.unread:
            raise PolicyError(
                f"{type(self).__name__} was not told what weight the tokens before received, which only "
                "attention of Headroom does; leave the attention implementation of the model as it was"
            )
        self.unread = True
        filled = min(past, self.slots)
        begins = torch.full((1,), past, device=self.device) if starts is None else past - starts

        def pieces() -> Iterator[Piece]:
            for begin in range(0, filled, PIECE):
                yield self.piece(slice(begin, min(begin + PIECE, filled)), starts is not None)

        def observe(weights: Sequence[Tensor]) -> None:
            with torch.no_grad():
                self._absorb(new, begins.reshape(-1, 1, 1), weights)
            self.unread = False
            self.evicted |= max(first) + new[0].shape[2] > self.slots

        return Stored(past, starts, new, pieces, observe=observe)

    def piece(self, cut: slice, ragged: bool) -> Piece:
        """Some slots, ready for attention.

        Args:
            cut: Which.
            ragged: Whether some may be empty, because rows begin at different columns.
        """
        keys, values, positions = (self.parts[name][:, :, cut] for name in ("keys", "values", "positions"))
        return Piece(keys, values, positions.long() if ragged else None)

    def exchange(self, new: dict[str, Tensor], change: Exchange) -> None:
        """Write tokens of a pass over those that they replace.

        Args:
            new: What every part is to hold of each token, ``[B, K, T, ...]``.
            change: Which goes where.
        """
        for name, part in self.parts.items():
            for begin in range(0, change.slots.shape[2], PIECE):
                cut = slice(begin, begin + PIECE)
                slots, columns, takes = (
                    _as_wide_as(part, index[:, :, cut])
                    for index in (change.slots, change.columns, change.takes)
                )
                put = torch.where(takes, new[name].gather(2, columns), part.gather(2, slots))
                part.scatter_(2, slots, put)

    def check_kept(self, kept: int, seen: int) -> None:
        """Refuse to go back to ``kept`` of ``seen`` tokens once any was evicted.

        Raises:
            PolicyError: one was, and might have to come back.
        """
        if self.evicted:
            super().check_kept(kept, seen)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens while all are kept; the weight that they gave to others stays counted.

        Args:
            tokens_to_remove: How many, as a negative number.

        Raises:
            PolicyError: tokens were evicted.
        """
        super().crop(tokens_to_remove)
        removed = min(abs(tokens_to_remove), self.seen)
        self.seen -= removed
        if self.is_initialized:
            positions = self.parts["positions"]
            ends = positions.amax(dim=(1, 2), keepdim=True) + 1
            positions.masked_fill_(positions >= ends - removed, -1)

    def reset(self) -> None:
        """Forget everything and give up the memory."""
        super().reset()
        self.unread = self.evicted = False

    def _absorb(self, new: tuple[Tensor, Tensor], begins: Tensor, weights: Sequence[Tensor]) -> None:
        """Count the weights of a pass, and exchange tokens until the budget holds all.

        Args:
            new: Keys and values ``[B, K, T, D]``.
            begins: ``[1 or B, 1, 1]`` int64, the position of the first of them.
            weights: As ``Stored.observe`` takes them.
        """
        received = weights[-1]
        positions = (begins + torch.arange(received.shape[2], device=self.device)).expand_as(received)
        filled = 0
        for weight in weights[:-1]:
            self.parts["scores"][:, :, filled : filled + weight.shape[2]] += weight
            filled += weight.shape[2]
        change = self._decide(positions, received, begins + received.shape[2])
        fresh = {"keys": new[0], "values": new[1], "positions": positions.int(), "scores": received}
        self.exchange(fresh, change)

    def _decide(self, positions: Tensor, received: Tensor, ends: Tensor) -> Exchange:
        """Of ``N`` slots and ``T`` new tokens ``T`` go: empty ones first, then those of the least weight."""
        slots, tokens = self.slots, received.shape[2]
        held = torch.cat([self.parts["positions"], positions.int()], dim=2).long()
        rank = self._rank(held, torch.cat([self.parts["scores"], received], dim=2), ends)
        going = rank.topk(tokens, dim=2, largest=False, sorted=False).indices
        goes = torch.zeros_like(rank, dtype=torch.bool).scatter_(2, going, True)
        real, freed = held >= 0, goes[:, :, :slots]
        takes = ~goes[:, :, slots:] & real[:, :, slots:]
        most = min(slots, tokens)
        places, columns = _first(freed, most), _first(takes, most)
        return Exchange(
            places,
            columns,
            takes.gather(2, columns),
            (freed & real[:, :, :slots]).gather(2, places),
            goes[:, :, slots:] & real[:, :, slots:],
            ends,
        )

    def _rank(self, positions: Tensor, scores: Tensor, ends: Tensor) -> Tensor:
        """In which order tokens go, ``[B, K, N + T]`` int64, lowest first and no two alike.

        That makes a padded row choose as it would alone, even where weights are equal: the older goes.
        """
        stays = self.stays(positions, ends)
        # The bits of floats that are not negative are ordered as they are.
        bits = scores.masked_fill(stays, torch.inf).view(torch.int32).long()
        # Slots fill from the first to the last; padding never gets one while a slot is empty.
        index = torch.arange(positions.shape[2], device=self.device)
        empty = torch.where(index < self.slots, index - self.slots, -1 - index)
        return torch.where(positions >= 0, (bits << 32) | positions, empty)

    def stays(self, positions: Tensor, ends: Tensor) -> Tensor:
        """Whether tokens stay whatever they receive: sinks and recent ones."""
        return (positions < self.budget.sinks) | (positions >= ends - self.budget.recent)


def _first(chosen: Tensor, count: int) -> Tensor:
    """Where ``chosen`` (``[B, K, N]`` bool) holds, in order, and then others: ``[B, K, count]`` int64."""
    width = chosen.shape[2]
    back = torch.arange(width, 0, -1, device=chosen.device)
    return torch.where(chosen, back + width, back).topk(count, dim=2).indices


def _as_wide_as(part: Tensor, index: Tensor) -> Tensor:
    """``[B, K, M]`` for ``gather`` and ``scatter`` on a part ``[B, K, N]`` or ``[B, K, N, D]``."""
    return index if part.dim() == 3 else index[..., None].expand(*index.shape, part.shape[3])
