"""Layers of fixed shape: a decode step writes in place, and only the device knows how far it has come."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from patches.cache.window import WindowLayer
from patches.frame import Frame, Step
from patches.kernels import language
from patches.kernels.write import write_token
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


class StaticWindowLayer(WindowLayer):
    """A window layer that hands out every slot in a decode step; see ``patches.cache.window``."""

    is_compileable = True

    def __init__(self, window: int, sinks: int, progress: Progress):
        """Make an empty layer.

        Args:
            window: ``W``, tokens.
            sinks: ``S``, tokens.
            progress: Of the cache that it belongs to.
        """
        super().__init__(window, sinks)
        self.progress = progress

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate as ``WindowLayer`` does, at an address to keep."""
        super().lazy_initialization(key_states, value_states)
        keep_address(*self.stores)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """As ``WindowLayer.update``, but with all ``S + W`` slots in a decode step."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        step = self.progress.step_on(key_states.device)
        if not step.on_device:
            frame = Frame(step, key_states.shape[2], self.window, self.sinks)
            return self._take_in(key_states, value_states, frame)
        assert step.slots is not None
        states = (key_states.detach(), value_states.detach())
        if not writes_slots(key_states):
            return write_column(self.stores, states, step.slots)
        write_token(self.stores, states, step.slots)
        keys, values = (store.transpose(1, 2) for store in self.stores)
        return keys, values

    def crop(self, tokens_to_remove: int) -> None:
        """Check that the tokens before can still be had; the cache itself counts."""
        seen = self.get_seq_length()
        self.check_kept(max(seen - abs(tokens_to_remove), 0), seen)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row ``i`` become what row ``beam_idx[i]`` was, in place."""
        reorder_in_place(self, beam_idx)

    def get_seq_length(self) -> int:
        """Tokens seen, read from the device."""
        return int(self.progress.columns)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """All slots, as an int that never changes; the mask does not come from here."""
        return self.sinks + self.window, 0


class StaticGlobalLayer(CacheLayerMixin):
    """All columns of a global layer, allocated once: ``[B, N, K, D]``, handed out as transposed views."""

    is_sliding = False
    is_compileable = True
    is_croppable = True

    def __init__(self, max_length: int, progress: Progress):
        """Make an empty layer.

        Args:
            max_length: ``N``, columns.
            progress: Of the cache that it belongs to.
        """
        super().__init__()
        self.max_length = max_length
        self.progress = progress

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for the batch, heads, dtype and device of the first tokens, ``[B, K, T, D]``."""
        self.dtype, self.device = key_states.dtype, key_states.device
        # A cache that was first filled under inference mode must still be writable outside of it.
        with torch.inference_mode(False):
            self.keys, self.values = (
                torch.zeros(
                    states.shape[0], self.max_length, states.shape[1], states.shape[3],
                    dtype=states.dtype, device=states.device,
                )
                for states in (key_states, value_states)
            )  # fmt: skip
        keep_address(self.keys, self.values)
        self.is_initialized = True

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
        assert self.keys is not None and self.values is not None
        past = self.progress.step_on(key_states.device).past
        if isinstance(past, Tensor):
            return write_column((self.keys, self.values), (key_states, value_states), past)
        end = past + key_states.shape[2]
        for store, states in ((self.keys, key_states), (self.values, value_states)):
            store[:, past:end] = states.detach().transpose(1, 2)
        return self.keys[:, :end].transpose(1, 2), self.values[:, :end].transpose(1, 2)

    def crop(self, tokens_to_remove: int) -> None:
        """Nothing to do: the cache counts, and columns past the count are not seen."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row ``i`` become what row ``beam_idx[i]`` was, in place."""
        reorder_in_place(self, beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times, which moves the layer."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = (s.repeat_interleave(repeats, dim=0) for s in (self.keys, self.values))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows ``indices``, which moves the layer."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[indices], self.values[indices]

    def get_seq_length(self) -> int:
        """Columns seen, read from the device."""
        return int(self.progress.columns)

    def get_max_length(self) -> int:
        """``N``."""
        return self.max_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """All columns, as an int that never changes; the mask does not come from here."""
        return self.max_length, 0


def keep_address(*stores: Tensor) -> None:
    """Promise torch.compile that these tensors stay where they are, so that CUDA graphs may write there."""
    if not torch.compiler.is_compiling():
        for store in stores:
            torch._dynamo.mark_static_address(store)


def writes_slots(states: Tensor) -> bool:
    """Whether one launch of a kernel writes the token; torch.compile fuses the writes that it can see."""
    able = states.is_cuda and language.missing() is None and states.stride(-1) == 1
    return able and not torch.compiler.is_compiling()


def write_column(
    stores: tuple[Tensor, Tensor], states: tuple[Tensor, Tensor], index: Tensor
) -> tuple[Tensor, Tensor]:
    """Write one token per row in place.

    Args:
        stores: Keys and values, ``[B, N, K, D]``.
        states: Keys and values of the token, ``[B, K, 1, D]``.
        index: Its column, ``[1]`` or ``[B]`` int64.

    Returns:
        Keys and values ``[B, K, N, D]``, views of the stores.
    """
    for store, token in zip(stores, states, strict=True):
        if index.shape[0] == 1:
            store.index_copy_(1, index, token.detach().transpose(1, 2))
        else:
            store[torch.arange(store.shape[0], device=store.device), index] = token.detach()[:, :, 0]
    return stores[0].transpose(1, 2), stores[1].transpose(1, 2)


def reorder_in_place(layer: CacheLayerMixin, rows: Tensor) -> None:
    """Let row ``i`` of the keys and values become what row ``rows[i]`` was."""
    if layer.is_initialized:
        for store in (layer.keys, layer.values):
            assert store is not None
            store.copy_(store.index_select(0, rows.to(store.device)))
