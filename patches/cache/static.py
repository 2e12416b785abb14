"""Layers of fixed shape: a decode step writes in place, and only the device knows how far it has come."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from patches.cache.layer import CacheLayer
from patches.cache.layout import Layout
from patches.cache.unwritten import assign
from patches.cache.window import WindowLayer
from patches.frame import Frame, Step
from patches.policy import PolicyError


class Progress:
    """How many columns a static cache has seen, and the pass under way; shared by its layers.

    Attributes:
        columns: ``[1]`` int64, padding included. It stays at one address, so that a CUDA graph can count on.
        started: Whether a pass is over.
        step: The pass under way.
    """

    def __init__(self) -> None:
        # A cache made under inference mode must still be writable outside of it.
        with torch.inference_mode(False):
            self.columns = torch.zeros(1, dtype=torch.int64)
        self.started = False
        self.step: Step | None = None

    def on(self, device: torch.device) -> Tensor:
        """The count, moved to ``device`` before the first pass."""
        if not self.started and self.columns.device != device:
            with torch.inference_mode(False):
                self.columns = self.columns.to(device)
        return self.columns

    def set(self, columns: int) -> None:
        """Say how many columns count as seen."""
        self.columns.fill_(columns)
        self.started = columns > 0

    def close(self, tokens: int) -> None:
        """Count the columns of the pass under way, which is over."""
        if not self.started:
            keep_address(self.columns)
        self.columns.add_(tokens)
        self.started, self.step = True, None

    def step_on(self, device: torch.device) -> Step:
        """The pass under way with its tensors on ``device``.

        Raises:
            PolicyError: there is none.
        """
        if self.step is None:
            raise PolicyError("a static cache is filled by the forward pass of a windowed model alone")
        return self.step.to(device)


class StaticLayer(CacheLayer):
    """A layer whose memory keeps its address and its shape, and whose length the cache counts."""

    is_compileable = True
    progress: Progress

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """As ``CacheLayer``, at an address to keep."""
        super().lazy_initialization(key_states, value_states)
        keep_address(*self.stores)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row ``i`` become what row ``beam_idx[i]`` was, in place."""
        if self.is_initialized:
            for store in self.stores:
                store.copy_(self._rows(store, beam_idx))

    def get_seq_length(self) -> int:
        """Tokens seen, read from the device."""
        return int(self.progress.columns)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """All columns, as an int that never changes; the mask does not come from here."""
        return self._columns(query_length), 0

    def _replace(self, make: Callable[[Tensor], Tensor]) -> None:
        super()._replace(make)
        keep_address(*self.stores)


class StaticWindowLayer(StaticLayer, WindowLayer):
    """A window layer that hands out every slot in a decode step; see ``patches.cache.window``."""

    def __init__(self, window: int, sinks: int, progress: Progress, layout: Layout | None = None):
        """Make an empty layer.

        Args:
            window: ``W``, tokens.
            sinks: ``S``, tokens.
            progress: Of the cache that it belongs to.
            layout: As ``CacheLayer``.
        """
        super().__init__(window, sinks, layout)
        self.progress = progress

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, in_pass: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """As ``WindowLayer.update``, but with all ``S + W`` slots in a decode step."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        step = self.progress.step_on(key_states.device)
        if not step.on_device:
            frame = Frame(step, key_states.shape[2], self.window, self.sinks)
            return self._take_in(key_states, value_states, frame, in_pass)
        assert step.slots is not None
        return self._hand_out(self.stores, (key_states, value_states), step.slots, in_pass)

    def crop(self, tokens_to_remove: int) -> None:
        """Check that the tokens before can still be had; the cache itself counts."""
        seen = self.get_seq_length()
        self.check_kept(max(seen - abs(tokens_to_remove), 0), seen)


class StaticGlobalLayer(StaticLayer):
    """All columns of a global layer, allocated once."""

    def __init__(self, max_length: int, progress: Progress, layout: Layout | None = None):
        """Make an empty layer.

        Args:
            max_length: ``N``, columns.
            progress: Of the cache that it belongs to.
            layout: As ``CacheLayer``.
        """
        super().__init__(layout)
        self.max_length = max_length
        self.progress = progress

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the new tokens and return the columns so far, or all columns in a decode step.

        Args:
            key_states: ``[B, K, T, D]``, rotated.
            value_states: ``[B, K, T, D]``.
            args: Not used.
            kwargs: Not used.

        Returns:
            Keys and values ``[B, K, past + T or N, D]``.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        states = (key_states, value_states)
        past = self.progress.step_on(key_states.device).past
        if isinstance(past, Tensor):
            # An assignment of torch notices on the device that the column lies outside.
            assign(self.stores, states, past)
            return self.stores
        end = past + key_states.shape[2]
        for store, new in zip(self.stores, states, strict=True):
            store[:, :, past:end] = new.detach()
        return self._so_far(past, states)

    def crop(self, tokens_to_remove: int) -> None:
        """Nothing to do: the cache counts, and columns past the count are not seen."""

    def get_max_length(self) -> int:
        """``N``."""
        return self.max_length

    def _columns(self, tokens: int) -> int:
        return self.max_length


def static_layer(
    window: int | None, sinks: int, max_length: int, progress: Progress, layout: Layout | None
) -> StaticLayer:
    """The layer for a window, or for none."""
    if window is None:
        return StaticGlobalLayer(max_length, progress, layout)
    return StaticWindowLayer(window, sinks, progress, layout)


def keep_address(*stores: Tensor) -> None:
    """Promise torch.compile that these tensors stay where they are, so that CUDA graphs may write there."""
    if not torch.compiler.is_compiling():
        for store in stores:
            torch._dynamo.mark_static_address(store)
