"""Layers that keep a budget of tokens in every KV head by merging neighbours that are alike."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from patches.cache.budget import Budget
from patches.cache.policies.policy import Place
from patches.cache.slots import SlottedLayer
from patches.cache.stored import PIECE, Piece, Stored

AT_ONCE = 4 * PIECE
"""Tokens of one KV head that are merged at once: of as many rows as have no more, or of one."""


class MergingLayer(SlottedLayer):
    """A layer of ``N`` slots per row and KV head, each with one token or several in a row.

    A slot of ``m`` tokens has the means of their keys and values, and counts ``m`` times in the softmax: what
    equal keys would give, exactly. Once a row has more than ``N`` tokens, neighbours merge until somewhat
    fewer slots are full, so that the steps that follow only append.

    Source: proportional attention, arXiv 2210.09461; merging of neighbours, arXiv 2407.08454.
    Holds: nothing but equal tokens merged is the full cache, never a byte more
    (tests/patches/test_token_merging.py).
    """

    noted: ClassVar = {"counts": (0, torch.int32)}

    def __init__(self, budget: Budget, place: Place):
        """As ``SlottedLayer``."""
        super().__init__(budget, place)
        self.merged = False

    def filled(self, length: int) -> int:
        """Slots in use of a row of ``length`` tokens, at most 0 for one that has not begun."""
        least = self.budget.least
        slack = min(self.slots // 32, self.slots - least)
        if length <= self.slots:
            return max(length, 0)
        return self.slots - slack + (length - self.slots - 1) % (slack + 1)

    def take_in(
        self, new: tuple[Tensor, Tensor], first: list[int], starts: Tensor | None, past: int
    ) -> Stored:
        """Show what was kept and the new tokens as they are, and store them, merged where they must be."""
        tokens = new[0].shape[2]
        rows = [
            (self.filled(begin), min(tokens, max(begin + tokens, 0)), self.filled(begin + tokens))
            for begin in first
        ]
        held, most = self.parts, max(filled for filled, _, _ in rows)
        merging = any(filled + came > kept for filled, came, kept in rows)
        weighted = self.merged
        if merging:
            # Queries of this pass read the slots as they were.
            with torch.inference_mode(False):
                self.parts = {name: part.clone() for name, part in held.items()}
            self.merged = True
        for change in dict.fromkeys(rows):
            self._store(new, [row for row, its in enumerate(rows) if its == change], *change)
        here = None if starts is None else _up_to([filled for filled, _, _ in rows], most, self.device)

        def pieces() -> Iterator[Piece]:
            for begin in range(0, most, PIECE):
                cut = slice(begin, min(begin + PIECE, most))
                keys, values, counts = (held[name][:, :, cut] for name in ("keys", "values", "counts"))
                bias = counts.clamp(min=1).float().log() if weighted else None
                yield Piece(keys, values, None if here is None else here[:, :, cut], bias)

        return Stored(past, starts, new, pieces)

    def check_kept(self, kept: int, seen: int) -> None:
        """Refuse to go back to ``kept`` of ``seen`` tokens once any were merged.

        Raises:
            PolicyError: they were.
        """
        if self.merged:
            super().check_kept(kept, seen)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens while none are merged.

        Args:
            tokens_to_remove: How many, as a negative number.

        Raises:
            PolicyError: some are.
        """
        super().crop(tokens_to_remove)
        self.seen -= min(abs(tokens_to_remove), self.seen)

    def reset(self) -> None:
        """Forget everything and give up the memory."""
        super().reset()
        self.merged = False

    def _store(self, new: tuple[Tensor, Tensor], rows: list[int], filled: int, came: int, kept: int) -> None:
        """Store tokens of some rows.

        Args:
            new: Keys and values of all rows, ``[B, K, T, D]``.
            rows: Which they are.
            filled: Slots in use before.
            came: Tokens that are not padding.
            kept: Slots in use after.
        """
        begin = new[0].shape[2] - came
        at = torch.tensor(rows, device=self.device)
        if filled + came <= kept:
            for name, tokens in (("keys", new[0]), ("values", new[1])):
                self.parts[name][at, :, filled:kept] = tokens[at, :, begin:]
            self.parts["counts"][at, :, filled:kept] = 1
            return
        for some in at.split(max(AT_ONCE // (filled + came), 1)):
            keys, values = (
                torch.cat([self.parts[name][some, :, :filled], tokens[some, :, begin:]], dim=2)
                for name, tokens in (("keys", new[0]), ("values", new[1]))
            )
            counts = self.parts["counts"][some, :, :filled]
            counts = torch.cat([counts, counts.new_ones(*keys.shape[:2], came)], dim=2)
            merged = merge(keys, values, counts, kept, self.budget.sinks, self.budget.recent)
            for name, part in zip(("keys", "values", "counts"), merged, strict=True):
                self.parts[name][some, :, :kept] = part.to(self.parts[name].dtype)


def merge(
    keys: Tensor, values: Tensor, counts: Tensor, kept: int, sinks: int, recent: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Merge neighbours until ``kept`` of ``N`` are left, those first of which the keys lose least.

    What keys lose is the growth of their squared distances to their means (Ward 1963). Each round merges a
    quarter of what is too much, all at once; so a run of neighbours that are alike may become one.

    Args:
        keys: ``[B, K, N, D]``, any float dtype.
        values: the same.
        counts: ``[B, K, N]`` int32, how many tokens each stands for.
        kept: How many are to be left, at least ``sinks + recent + 1``.
        sinks: First ones that are left as they are.
        recent: Last ones, likewise.

    Returns:
        Keys and values ``[B, K, kept, D]`` in float32 or wider, and counts.
    """
    wide = torch.promote_types(keys.dtype, torch.float32)
    means, weights = keys.to(wide), counts.to(wide)
    slot = torch.arange(keys.shape[2], device=keys.device).expand_as(counts)
    while (surplus := means.shape[2] - kept) > 0:
        joins = _cheapest(means, weights, max(surplus // 4, 1), sinks, recent)
        into = (~joins).long().cumsum(dim=2) - 1
        left = means.shape[2] - max(surplus // 4, 1)
        means, weights = _means(means, weights, into, left)
        slot = into.gather(2, slot)
    merged, _ = _means(values.to(wide), counts.to(wide), slot, kept)
    return means, merged, weights


def _cheapest(means: Tensor, weights: Tensor, count: int, sinks: int, recent: int) -> Tensor:
    """Which tokens join the one before them, ``count`` in every head, ``[B, K, N]`` bool."""
    before, after = weights[:, :, :-1], weights[:, :, 1:]
    loss = (means[:, :, 1:] - means[:, :, :-1]).square().sum(dim=3) * (before * after / (before + after))
    free = loss[:, :, sinks : loss.shape[2] - recent]
    chosen = free.topk(count, dim=2, largest=False, sorted=False).indices + sinks + 1
    return torch.zeros_like(weights, dtype=torch.bool).scatter_(2, chosen, True)


def _means(tokens: Tensor, weights: Tensor, into: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Weighted means ``[B, K, count, D]`` of tokens that go ``into`` the same, and their weights."""
    total = weights.new_zeros(*weights.shape[:2], count).scatter_add_(2, into, weights)
    share = weights / total.gather(2, into)
    sums = tokens.new_zeros(*total.shape, tokens.shape[3])
    return sums.scatter_add_(2, into[..., None].expand_as(tokens), tokens * share[..., None]), total


def _up_to(filled: list[int], most: int, device: torch.device) -> Tensor:
    """Positions that say which slots are in use, ``[B, 1, most]``: all queries come later than any."""
    used = torch.tensor(filled, device=device)[:, None, None]
    return torch.where(torch.arange(most, device=device) < used, 0, -1)
