"""A layer that keeps old tokens as their coordinates in a few directions per KV head."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from patches.cache.bases import SIDES, principal_directions, second_moment
from patches.cache.compressed import CompressedLayer
from patches.cache.room import room
from patches.cache.stored import PIECE, Piece, Stored
from patches.policy import PolicyError


class LowRankLayer(CompressedLayer):
    """Sinks and the latest tokens as they are; of older ones ``R`` coordinates per KV head, keys and values.

    Attention meets the coordinates themselves: a query is projected once and the weighted values are expanded
    at the end, so no key or value is ever restored. A token is projected once, when it leaves the latest.

    The bases of a row are fitted in the pass in which its first token has to be projected, to all its tokens
    so far but the sinks: to a whole prompt that comes at once, and never to fewer than the latest. Which pass
    that is depends on the length of the row alone, so that padding changes nothing.

    Keys are projected after rotation. Before it they need fewer directions, but a layer sees rotated keys
    alone, and every read would have to rotate what it restores, by a rotation that is the family's own.

    Holds: padded rows are what they are alone, the bytes are the formula, ``R = D`` is the full cache
    (tests/patches/test_low_rank.py, tests/patches/test_cache_policies.py).
    """

    is_croppable = True

    def __init__(
        self,
        sinks: int,
        residual: int,
        rank: Callable[[int, int, int], int],
        bases: Callable[[int, int, int], tuple[Tensor, Tensor]] | None = None,
        limit: int | None = None,
    ):
        """Make an empty layer.

        Args:
            sinks: First tokens of a row that stay as they are.
            residual: Latest tokens that stay as they are.
            rank: ``R`` for ``K``, ``D`` and the bytes of a number; with ``R = D`` there are no bases.
            bases: Those of keys and values, ``[K, D, R]``, for ``K``, ``D`` and ``R``. None: fit them.
            limit: The most columns that may pass through; None: any number.
        """
        super().__init__()
        self.sinks = sinks
        self.residual = residual
        self.rank_for = rank
        self.bases_for = bases
        self.limit = limit

    def allocate(self, key_states: Tensor, value_states: Tensor) -> None:
        """Room for the sinks, and for bases that are known."""
        batch, heads, _, dim = key_states.shape
        self.rank = self.rank_for(heads, dim, key_states.element_size())
        self.whole = self.rank == dim
        for side, states in zip(SIDES, (key_states, value_states), strict=True):
            self.parts[f"exact {side}s"] = states.new_zeros(batch, heads, self.sinks, dim)
            self.parts[f"{side} coordinates"] = states.new_zeros(batch, heads, 0, self.rank)
        if self.bases_for is not None and not self.whole:
            for side, known in zip(SIDES, self.bases_for(heads, dim, self.rank), strict=True):
                self.parts[f"{side} bases"] = known.to(key_states).expand(batch, -1, -1, -1).contiguous()

    def take_in(
        self, new: tuple[Tensor, Tensor], first: list[int], starts: Tensor | None, past: int
    ) -> Stored:
        """Project what leaves the latest tokens; the pass itself still reads those exactly.

        Raises:
            PolicyError: there are more tokens than the budget is for.
        """
        tokens, recent = new[0].shape[2], self.recent
        if self.limit is not None and past + tokens > self.limit:
            raise PolicyError(f"{past + tokens} tokens: the budget is for tokens={self.limit}")
        before = self._pair("exact {}s")
        leaving = max(0, recent + tokens - self.residual)
        for side, states in zip(SIDES, new, strict=True):
            if past - recent + leaving > self.sinks:
                self._fit(side, states, [at - recent for at in first], leaving)
                self._project(side, states, past, leaving)
            self._keep(side, states, first)
        coordinates = self._pair("{} coordinates")
        bases = self._pair("{} bases") if "key bases" in self.parts else None

        def pieces() -> Iterator[Piece]:
            keys, values = before
            yield Piece(keys, values, self._exact_positions(past, recent, starts))
            for begin in range(0, past - recent - self.sinks, PIECE):
                cut = slice(begin, min(begin + PIECE, past - recent - self.sinks))
                keys, values = (each[:, :, cut] for each in coordinates)
                yield Piece(keys, values, self._positions(cut, starts), None, bases)

        return Stored(past, starts, new, pieces)

    @property
    def recent(self) -> int:
        """The latest tokens that are kept as they are."""
        return self.parts["exact keys"].shape[2] - self.sinks if self.is_initialized else 0

    def check_kept(self, kept: int, seen: int) -> None:
        """Refuse to go back further than the latest tokens.

        Raises:
            PolicyError: others have been projected.
        """
        if seen - kept > self.recent:
            super().check_kept(kept, seen)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget some of the latest tokens.

        Args:
            tokens_to_remove: How many, as a negative number.

        Raises:
            PolicyError: they are more than are kept as they are.
        """
        super().crop(tokens_to_remove)
        kept = self.recent - abs(tokens_to_remove)
        self.seen -= abs(tokens_to_remove)
        for side in SIDES if self.is_initialized else ():
            self.parts[f"exact {side}s"] = self.parts[f"exact {side}s"][:, :, : self.sinks + kept].clone()

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        """A part of the keys and of the values."""
        keys, values = (self.parts[name.format(side)] for side in SIDES)
        return keys, values

    def _fit(self, side: str, states: Tensor, held: list[int], leaving: int) -> None:
        """Bases of the rows of which a token is projected for the first time.

        Args:
            side: Keys or values.
            states: Those of the pass, ``[B, K, T, D]``.
            held: Position of the first of each row's latest tokens.
            leaving: How many tokens leave.
        """
        rows = [row for row, begin in enumerate(held) if begin <= self.sinks < begin + leaving]
        known = self.parts.get(f"{side} bases")
        if self.whole or self.bases_for is not None or (known is not None and not rows):
            return
        batch, heads, _, dim = states.shape
        latest = self.parts[f"exact {side}s"][:, :, self.sinks :]
        # Another tensor than before, which may have come from inference mode.
        bases = states.new_zeros(batch, heads, dim, self.rank) if known is None else known.clone()
        for row in rows:
            skipped = self.sinks - held[row]
            moment = second_moment(latest[row][:, skipped:])
            moment += second_moment(states[row][:, max(0, skipped - latest.shape[2]) :])
            bases[row] = principal_directions(moment, self.rank).to(bases)
        self.parts[f"{side} bases"] = bases

    def _project(self, side: str, states: Tensor, past: int, leaving: int) -> None:
        """Coordinates of the tokens that leave; column ``c`` has place ``c - sinks`` among them."""
        latest = self.parts[f"exact {side}s"][:, :, self.sinks :]
        recent = latest.shape[2]
        store = self._room(side, past - recent + leaving - self.sinks)
        for begin, source in (
            (past - recent, latest[:, :, :leaving]),
            (past, states[:, :, : max(0, leaving - recent)]),
        ):
            skipped = max(0, self.sinks - begin)
            at = begin + skipped - self.sinks
            for piece in source[:, :, skipped:].split(PIECE, dim=2):
                store[:, :, at : at + piece.shape[2]] = (
                    piece if self.whole else piece @ self.parts[f"{side} bases"]
                )
                at += piece.shape[2]

    def _room(self, side: str, tokens: int) -> Tensor:
        """The store for coordinates, larger where so many tokens need it."""
        store = self.parts[f"{side} coordinates"]
        batch, heads, filled, rank = store.shape
        if tokens > filled:
            # A cache that was first filled under inference mode must still be writable outside of it.
            with torch.inference_mode(False):
                grown = torch.zeros(batch, heads, room(tokens), rank, dtype=store.dtype, device=store.device)
            grown[:, :, :filled] = store
            self.parts[f"{side} coordinates"] = store = grown
        return store

    def _keep(self, side: str, states: Tensor, first: list[int]) -> None:
        """Sinks and latest tokens once the new ones have come, in a tensor of their own."""
        held = self.parts[f"exact {side}s"]
        tokens, sinks = states.shape[2], held[:, :, : self.sinks]
        if min(first) < self.sinks:
            column = torch.arange(self.sinks) - torch.tensor(first)[:, None]
            column = column.to(states.device)[:, None, :, None]
            chosen = states.gather(
                2, column.clamp(0, tokens - 1).expand(-1, states.shape[1], -1, states.shape[3])
            )
            sinks = torch.where((column >= 0) & (column < tokens), chosen, sinks)
        latest = held[:, :, self.sinks :]
        stays = max(0, min(latest.shape[2], self.residual - tokens))
        latest = latest[:, :, latest.shape[2] - stays :]
        self.parts[f"exact {side}s"] = torch.cat([sinks, latest, states[:, :, -self.residual :]], dim=2)

    def _exact_positions(self, past: int, recent: int, starts: Tensor | None) -> Tensor | None:
        """Where the sinks and the latest tokens stand, ``[1 or B, 1, S + N]``; None: all are there."""
        if starts is None and past - recent >= self.sinks:
            return None
        begin = _begins(starts, self.device)
        sinks = torch.arange(self.sinks, device=self.device)
        latest = torch.arange(past - recent, past, device=self.device) - begin
        sinks = torch.where(sinks < past - begin, sinks, -1)
        return torch.cat([sinks, latest.masked_fill(latest < self.sinks, -1)], dim=1)[:, None]

    def _positions(self, cut: slice, starts: Tensor | None) -> Tensor | None:
        """Where projected tokens stand, ``[B, 1, N]``; None: all are there."""
        if starts is None:
            return None
        column = torch.arange(cut.start, cut.stop, device=self.device) + self.sinks
        position = column - _begins(starts, self.device)
        return position.masked_fill(position < self.sinks, -1)[:, None]


def _begins(starts: Tensor | None, device: torch.device) -> Tensor:
    """The first column of each row, ``[1 or B, 1]``."""
    return (
        torch.zeros(1, 1, dtype=torch.int64, device=device) if starts is None else starts.to(device)[:, None]
    )
