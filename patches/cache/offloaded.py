"""Global layers whose keys and values live in the memory of the CPU and visit the device one at a time."""

from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin


class OffloadedLayer(CacheLayerMixin):
    """A growing layer in CPU memory, ``[N, B, K, D]`` so that what is filled is one piece, pinned for CUDA.

    Only new tokens travel to the CPU; the earlier ones come back for the time of one attention call, on
    CUDA by a side stream while layers before it compute. To autograd the cached tokens are constants.

    Holds: the tokens of a growing cache (tests/patches/test_offloaded.py).
    """

    is_sliding = False
    is_croppable = True

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.fetched: list[Tensor] | None = None
        self.written: Any = None
        self.ready: Any = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Note the device and dtype of the first tokens, ``[B, K, T, D]``, and make room for them."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            self._room(states, states.shape[2]) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the new tokens on the CPU and return all of them on their device.

        Args:
            key_states: ``[B, K, T, D]``, rotated.
            value_states: ``[B, K, T, D]``.
            args: Not used.
            kwargs: Not used.

        Returns:
            Keys and values ``[B, K, past + T, D]``.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past, end = self.seen, self.seen + key_states.shape[2]
        before = self._fetch() if past else []
        self._reserve(end, key_states, value_states)
        for store, states in zip(self.stores, (key_states, value_states), strict=True):
            store[past:end].copy_(states.detach().permute(2, 0, 1, 3), non_blocking=True)
        if self.device.type == "cuda":
            self.written = torch.cuda.current_stream(self.device).record_event()
        self.seen = end
        if not before:
            return key_states, value_states
        keys, values = (
            torch.cat([old.permute(1, 2, 0, 3), states], dim=2)
            for old, states in zip(before, (key_states, value_states), strict=True)
        )
        return keys, values

    def prefetch(self, stream: Any = None) -> None:
        """Start to copy what is stored to the device on a side stream of CUDA."""
        if self.seen and self.fetched is None:
            # The copy waits for the last tokens to arrive, and for nothing that is computed since.
            stream.wait_event(self.written)
            with torch.cuda.stream(stream):
                self.fetched = [
                    store[: self.seen].to(self.device, non_blocking=True) for store in self.stores
                ]
            self.ready = stream.record_event()

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; ``tokens_to_remove`` is negative."""
        self.seen = max(self.seen - abs(tokens_to_remove), 0)

    def reset(self) -> None:
        """Forget everything and keep the memory."""
        self.seen, self.fetched = 0, None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row ``i`` become what row ``beam_idx[i]`` was."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times."""
        if self.is_initialized:
            rows = torch.arange(self.stores[0].shape[1]).repeat_interleave(repeats)
            self.batch_select_indices(rows)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows ``indices``."""
        if self.is_initialized:
            self._settle()
            self.fetched = None
            rows = indices.to("cpu")
            self.keys, self.values = (_pinned_as(store, store[:, rows]) for store in self.stores)

    def get_seq_length(self) -> int:
        """Tokens stored."""
        return self.seen

    def get_max_length(self) -> int:
        """-1: it grows."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Every token; the mask does not come from here."""
        return self.seen + query_length, 0

    @property
    def stores(self) -> tuple[Tensor, Tensor]:
        """Keys and values as they lie in memory, ``[N, B, K, D]``, of which ``seen`` tokens are filled."""
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def _fetch(self) -> list[Tensor]:
        """What is stored, on the device, ``[past, B, K, D]``."""
        fetched, self.fetched = self.fetched, None
        if fetched is None:
            return [store[: self.seen].to(self.device, non_blocking=True) for store in self.stores]
        current = torch.cuda.current_stream(self.device)
        current.wait_event(self.ready)
        for tensor in fetched:
            tensor.record_stream(current)
        return [tensor[: self.seen] for tensor in fetched]

    def _reserve(self, tokens: int, key_states: Tensor, value_states: Tensor) -> None:
        """Make room for ``tokens``, twice what there is when it is too little."""
        keys, values = self.stores
        if tokens <= keys.shape[0]:
            return
        self._settle()
        room = max(tokens, 2 * keys.shape[0])
        self.keys, self.values = self._room(key_states, room), self._room(value_states, room)
        for store, old in zip(self.stores, (keys, values), strict=True):
            store[: self.seen] = old[: self.seen]

    def _room(self, states: Tensor, tokens: int) -> Tensor:
        batch, heads, _, dim = states.shape
        # A cache that was first filled under inference mode must still be writable outside of it.
        with torch.inference_mode(False):
            return torch.empty(
                tokens, batch, heads, dim, dtype=states.dtype, pin_memory=self.device.type == "cuda"
            )

    def _settle(self) -> None:
        """Wait until the last tokens have arrived, before the CPU itself reads them."""
        if self.written is not None:
            self.written.synchronize()


class Prefetcher:
    """Brings the next offloaded layer to its CUDA device while the one before it computes."""

    def __init__(self, layers: list[OffloadedLayer]):
        """Take the layers in the order in which they run.

        Args:
            layers: At least one.
        """
        following = islice(cycle(layers), 1, None)
        self.following = {id(layer): next(following) for layer in layers}
        self.streams: dict[torch.device, Any] = {}

    def after(self, layer: OffloadedLayer) -> None:
        """Fetch the layer that comes after ``layer``, around to the first."""
        upcoming = self.following[id(layer)]
        if not upcoming.is_initialized or upcoming.device.type != "cuda":
            return
        if upcoming.device not in self.streams:
            self.streams[upcoming.device] = torch.cuda.Stream(upcoming.device)
        upcoming.prefetch(self.streams[upcoming.device])


def _pinned_as(store: Tensor, rows: Tensor) -> Tensor:
    return rows.pin_memory() if store.is_pinned() else rows
