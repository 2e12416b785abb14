"""The cache of a windowed model: one layer per decoder layer, bounded where the layer has a window."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from patches.cache.window import WindowLayer
from patches.policy import WindowPolicy


class WindowedCache(Cache):
    """Sinks + ring in window layers, a growing layer in global ones.

    Rows of a left-padded batch keep their own positions: ``starts`` follows every reordering of the batch.
    """

    def __init__(self, config: PreTrainedConfig):
        """Make an empty cache.

        Args:
            config: The config of a windowed model.

        Raises:
            PolicyError: its ``attention_window`` is missing or wrong.
        """
        layers: int = config.num_hidden_layers
        policy = getattr(config, "window_policy", None)
        self.policy: WindowPolicy = policy or WindowPolicy.from_config(None, layers)
        self.starts: Tensor | None = None
        self.begun = True
        super().__init__(layers=[self._layer(index) for index in range(layers)])

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the stored keys and values hold, slots that are still empty included."""
        stores = (getattr(layer, name) for layer in self.layers for name in ("keys", "values"))
        return sum(store.untyped_storage().nbytes() for store in stores if store is not None)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new tokens of one layer; see ``WindowLayer.update``."""
        starts = None if self.starts is None else self.starts.to(key_states.device)
        return super().update(key_states, value_states, layer_idx, starts=starts)

    def begin(self, starts: Tensor | None, columns: int) -> None:
        """Note where the rows begin.

        Args:
            starts: ``[B]``, the first real column of each row; None when no row is padded.
            columns: Columns seen once this pass is over; a row that begins later has had padding alone.
        """
        self.starts = starts
        self.begun = starts is None or bool((starts < columns).all())

    def reset(self) -> None:
        """Forget everything; window layers keep their memory."""
        for index, layer in enumerate(self.layers):
            if isinstance(layer, WindowLayer):
                layer.reset()
            else:
                # transformers 5.17 only zeroes a growing layer on reset, which leaves its tokens in place.
                self.layers[index] = self._layer(index)
        self.begin(None, 0)

    def reorder_cache(self, beam_idx: Any) -> None:
        """Let row ``i`` become what row ``beam_idx[i]`` was."""
        super().reorder_cache(beam_idx)
        if self.starts is not None:
            self.starts = self.starts.index_select(0, beam_idx.to(self.starts.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times."""
        super().batch_repeat_interleave(repeats)
        if self.starts is not None:
            self.starts = self.starts.repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows ``indices``."""
        super().batch_select_indices(indices)
        if self.starts is not None:
            self.starts = self.starts[indices]

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens of every layer, or of none if one layer cannot; see ``WindowLayer.crop``."""
        length = self.get_seq_length()
        kept = tokens_to_remove if tokens_to_remove > 0 else length + tokens_to_remove
        # Never more than there is: transformers 5.17 cannot crop a growing layer that holds nothing yet.
        removed = length - min(max(kept, 0), length)
        # Window layers come first because only they can refuse.
        for layer in sorted(self.layers, key=lambda layer: not isinstance(layer, WindowLayer)):
            layer.crop(-removed)  # type: ignore[union-attr]
        if self.starts is not None and removed:
            self.begin(self.starts.clamp(max=length - removed), length - removed)

    def _layer(self, index: int) -> CacheLayerMixin:
        window = self.policy.window_of(index)
        return DynamicLayer() if window is None else WindowLayer(window, self.policy.sinks)
