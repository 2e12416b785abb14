"""Global layers whose keys and values live in the memory of the CPU and visit the device one at a time."""

from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from patches.cache.growing import GrowingLayer
from patches.cache.layout import Layout

COLUMNS_FIRST = Layout("columns-first", (2, 0, 1, 3))
"""In CPU memory, so that what is filled is one piece to copy."""


class OffloadedLayer(GrowingLayer):
    """A growing layer in CPU memory, pinned for CUDA.

    Only new tokens travel to the CPU; the earlier ones come back for the time of one attention call, which
    gets them in the layout of the layer, on CUDA by a side stream while layers before it compute.

    Holds: the tokens of a growing cache (tests/patches/test_offloaded.py).
    """

    def __init__(self, layout: Layout | None = None) -> None:
        super().__init__(layout)
        self.fetched: list[Tensor] | None = None
        self.written: Any = None
        self.ready: Any = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the new tokens on the CPU and return all of them on their device, as ``GrowingLayer``."""
        states = (key_states, value_states)
        before = self._fetch() if self.seen else []
        self._store(*states)
        if self.device.type == "cuda":
            self.written = torch.cuda.current_stream(self.device).record_event()
        if not before:
            return states
        keys, values = (self._join(old, new) for old, new in zip(before, states, strict=True))
        return keys, values

    def prefetch(self, stream: Any) -> None:  # type: ignore[override]
        """Start to copy what is stored to the device.

        Args:
            stream: The side stream of CUDA to copy on.
        """
        if self.seen and self.fetched is None:
            # The copy waits for the last tokens to arrive, and for nothing that is computed since.
            stream.wait_event(self.written)
            with torch.cuda.stream(stream):
                self.fetched = self._copied()
            self.ready = stream.record_event()

    def reset(self) -> None:
        """As ``GrowingLayer``."""
        super().reset()
        self.fetched = None

    def _replace(self, make: Callable[[Tensor], Tensor]) -> None:
        if self.written is not None:
            # The CPU itself is about to read what may still be on its way.
            self.written.synchronize()
        self.fetched = None
        super()._replace(make)

    def _allocate(self, like: Tensor, batch: int, columns: int) -> Tensor:
        _, heads, _, dim = like.shape
        pinned = self.device.type == "cuda"
        cpu = torch.device("cpu")
        return COLUMNS_FIRST.allocate(batch, heads, columns, dim, like.dtype, cpu, pinned)

    def _put(self, store: Tensor, begin: int, new: Tensor) -> None:
        # With the columns in front both are one piece, which CUDA copies without the CPU's help.
        store.movedim(2, 0)[begin : begin + new.shape[2]].copy_(new.movedim(2, 0), non_blocking=True)

    def _copied(self) -> list[Tensor]:
        """What is stored, copied to the device, ``[B, K, past, D]``."""
        filled = (store.movedim(2, 0)[: self.seen] for store in self.stores)
        return [piece.to(self.device, non_blocking=True).movedim(0, 2) for piece in filled]

    def _fetch(self) -> list[Tensor]:
        """What is stored, on the device, ``[B, K, past, D]``."""
        fetched, self.fetched = self.fetched, None
        if fetched is None:
            return self._copied()
        current = torch.cuda.current_stream(self.device)
        current.wait_event(self.ready)
        for tensor in fetched:
            tensor.record_stream(current)
        return [tensor[:, :, : self.seen] for tensor in fetched]


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
