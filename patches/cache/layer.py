"""What the layers of a windowed model's cache share: where they store, and how rows of the batch move."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from patches.cache.layout import Layout, layout_of
from patches.cache.unwritten import Unwritten, UnwrittenTokens, has_kernel, write


class CacheLayer(CacheLayerMixin):
    """Keys and values ``[B, K, N, D]`` in any layout, ``N`` being what there is room for.

    To autograd the cached tokens are constants. A layer adds how many columns it has (``_columns``), where
    it writes new tokens and what it hands out (``update``), and what it can forget (``crop``).
    """

    is_sliding = False
    is_croppable = True
    layout: Layout

    def __init__(self, layout: Layout | None = None):
        """Make an empty layer.

        Args:
            layout: Order in memory; None: what suits the device of the first tokens.
        """
        super().__init__()
        self.asked = layout
        self.seen = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room for the batch, heads, dtype and device of the first tokens, ``[B, K, T, D]``.

        It is filled with zeros: attention may be handed empty columns under a mask, and noise could be NaN.
        """
        self.dtype, self.device = key_states.dtype, key_states.device
        self.layout = self.asked or layout_of(self.device)
        columns = self._columns(key_states.shape[2])
        self.keys, self.values = (
            self._allocate(states, len(states), columns).zero_() for states in (key_states, value_states)
        )
        self.is_initialized = True

    @property
    def stores(self) -> tuple[Tensor, Tensor]:
        """Keys and values with all columns, filled or not, ``[B, K, N, D]`` each."""
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def reset(self) -> None:
        """Forget everything and keep the memory."""
        super().reset()
        self.seen = 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row ``i`` become what row ``beam_idx[i]`` was."""
        if self.is_initialized:
            self._take_rows(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times."""
        if self.is_initialized:
            self._take_rows(torch.arange(len(self.stores[0])).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Any) -> None:
        """Keep only the rows ``indices``, numbers or a mask."""
        if self.is_initialized:
            self._take_rows(torch.arange(len(self.stores[0]))[torch.as_tensor(indices, device="cpu")])

    def get_seq_length(self) -> int:
        """Tokens seen."""
        return self.seen

    def get_max_length(self) -> int:
        """-1: any length may pass through."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As if every token were kept; the mask does not come from here."""
        return self.get_seq_length() + query_length, 0

    @abstractmethod
    def _columns(self, tokens: int) -> int:
        """``N`` where the first pass brings ``tokens``."""

    def _allocate(self, like: Tensor, batch: int, columns: int) -> Tensor:
        """Memory for keys or values as in ``like`` ``[B, K, any, D]``, for other rows and columns."""
        _, heads, _, dim = like.shape
        return self.layout.allocate(batch, heads, columns, dim, like.dtype, self.device)

    def _replace(self, make: Callable[[Tensor], Tensor]) -> None:
        """Put what ``make`` gives in the place of the keys, then of the values: only one is there twice."""
        self.keys = make(self.stores[0])
        self.values = make(self.stores[1])

    def _take_rows(self, rows: Tensor) -> None:
        """Let row ``i`` become what row ``rows[i]`` was, in new memory."""
        self._replace(lambda store: self._rows(store, rows))

    def _rows(self, store: Tensor, rows: Tensor) -> Tensor:
        """A copy of ``rows`` in the same layout."""
        copy = self._allocate(store, len(rows), store.shape[2])
        return torch.index_select(store, 0, rows.to(store.device), out=copy)

    def _hand_out(
        self,
        stores: tuple[Tensor, Tensor],
        token: tuple[Tensor, Tensor],
        column: Tensor | int,
        in_pass: bool,
    ) -> tuple[Tensor, Tensor]:
        """``stores`` with the token of a decode step in its column, or on its way there by attention.

        Args:
            stores: What the query may see of the layer.
            token: Keys and values ``[B, K, 1, D]``.
            column: As ``Unwritten``.
            in_pass: Whether attention of ours follows.
        """
        if in_pass and has_kernel(token):
            unwritten = Unwritten(stores, (token[0].detach(), token[1].detach()), column)
            return UnwrittenTokens(unwritten), UnwrittenTokens(unwritten)
        write(stores, token, column)
        return stores

    def _so_far(self, past: int, states: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The columns up to the new tokens, of which ``past`` come before them.

        Views of the cache after a first pass; where gradients are wanted, a copy in which they reach the new
        tokens.
        """
        if not past:
            return states
        if torch.is_grad_enabled() and any(new.requires_grad for new in states):
            keys, values = (
                self._join(store[:, :, :past], new) for store, new in zip(self.stores, states, strict=True)
            )
        else:
            keys, values = (store[:, :, : past + states[0].shape[2]] for store in self.stores)
        return keys, values

    def _join(self, *parts: Tensor) -> Tensor:
        """Stretches of tokens one after another, ``[B, K, any, D]`` each, in memory of their own.

        Gradients reach those parts that want them.
        """
        last, columns = parts[-1], sum(part.shape[2] for part in parts)
        batch, heads, _, dim = last.shape
        joined = self.layout.allocate(batch, heads, columns, dim, last.dtype, last.device)
        begin = 0
        for part in parts:
            end = begin + part.shape[2]
            joined[:, :, begin:end] = part
            begin = end
        return joined


def stored_nbytes(layer: Any) -> dict[str, int]:
    """Bytes of the keys and values of a layer, ours or of transformers, that keeps them as they are."""
    stores = {"keys": layer.keys, "values": layer.values}
    return {name: each.untyped_storage().nbytes() for name, each in stores.items() if each is not None}
