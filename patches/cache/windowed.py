"""The cache of a windowed model: one layer per decoder layer, bounded where the layer has a window."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin

from patches.cache.compressed import CompressedLayer
from patches.cache.layer import CacheLayer, stored_nbytes
from patches.cache.layout import find_layout
from patches.cache.offloaded import OffloadedLayer, Prefetcher
from patches.cache.policies import KvCache
from patches.cache.policies.policy import Place
from patches.cache.static import Progress, keep_address, static_layer
from patches.cache.window import WindowLayer
from patches.frame import Step
from patches.policy import PolicyError, WindowPolicy


class WindowedCache(Cache):
    """Sinks + ring in window layers; in global ones a layer that grows, or is static; else what the config's
    ``kv_cache`` says.

    Rows of a left-padded batch keep their own positions: ``starts`` follows every reordering of the batch.
    With a ``max_length`` every shape is fixed and the length lives on the device, so that a decode step can
    be compiled without a graph break and replayed as a CUDA graph.

    Holds: static and growing caches give the same tokens, a compiled step does not compile again
    (tests/patches/test_static.py).
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        max_length: int | None = None,
        offload: bool = False,
        kv_cache: KvCache | None = None,
        layout: str | None = None,
    ):
        """Make an empty cache.

        Args:
            config: The config of a windowed model.
            max_length: Columns of static global layers, padding included; window layers bound nothing. None:
                global layers grow.
            offload: Keep the keys and values of global layers in CPU memory.
            kv_cache: How tokens are kept; None: as the config says.
            layout: How tokens that are kept as they are lie in memory for attention, ``heads-first`` or
                ``tokens-first``. None: what suits the device of the first tokens.

        Raises:
            PolicyError: ``attention_window`` or ``kv_cache`` is missing or wrong, ``max_length`` is below 1,
                a static cache is to be offloaded, or either to be compressed, or there is no such layout.
        """
        if max_length is not None and offload:
            raise PolicyError("a static cache cannot be offloaded: leave out max_length or offload")
        if max_length is not None and max_length < 1:
            raise PolicyError(f"max_length={max_length} must be a number of tokens, at least 1")
        self.count: int = config.num_hidden_layers
        self.policy = self._read_policy(config)
        self.checkpoint = config.name_or_path or ""
        self.kv_cache = kv_cache or KvCache.from_config(getattr(config, "kv_cache", None))
        if not self.kv_cache.plain and (offload or max_length is not None):
            raise PolicyError(
                f"kv_cache keeps {self.kv_cache}, and a static or offloaded cache keeps tokens as they are; "
                "make one that grows, or patches.make_cache(model, 'full')"
            )
        self.starts: Tensor | None = None
        self.begins: tuple[int, ...] | None = None
        self.begun, self.in_pass = True, False
        self.max_length = max_length
        self.offloaded = offload
        self.layout = None if layout is None else find_layout(layout)
        self.progress = None if max_length is None else Progress()
        super().__init__(layers=[self._layer(index) for index in range(self.count)])
        visiting = [layer for layer in self.layers if isinstance(layer, OffloadedLayer)]
        self.prefetcher = Prefetcher(visiting) if visiting else None

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the stored keys and values hold, slots that are still empty included."""
        return sum(self.nbytes_by_part().values())

    def nbytes_by_part(self) -> dict[str, int]:
        """The same by kind of layer and by what is stored, such as ``global layers: values``."""
        parts: Counter[str] = Counter()
        for index, layer in enumerate(self.layers):
            kind = "global layers" if self.policy.window_of(index) is None else "window layers"
            held = layer.nbytes_by_part() if isinstance(layer, CompressedLayer) else stored_nbytes(layer)
            parts.update({f"{kind}: {name}": nbytes for name, nbytes in held.items()})
        return dict(parts)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new tokens of one layer; see ``WindowLayer.update``."""
        starts = None if self.starts is None else self.starts.to(key_states.device)
        told = {"starts": starts, "begins": self.begins, "in_pass": self.in_pass}
        stored = super().update(key_states, value_states, layer_idx, **told)
        if self.prefetcher is not None and isinstance(layer := self.layers[layer_idx], OffloadedLayer):
            self.prefetcher.after(layer)
        return stored

    @property
    def knows_padding(self) -> bool:
        """Whether no mask can tell a static cache more: a pass is over, and every row has begun."""
        return self.progress is not None and self.progress.started and self.begun

    def past(self, tokens: int, device: torch.device) -> int | Tensor:
        """Columns seen before a pass: an int, or ``[1]`` on the device in a decode step of a static cache.

        Args:
            tokens: ``T``, which the pass brings.
            device: Where it runs.

        Raises:
            PolicyError: a static cache has no room for them.
        """
        if self.progress is None:
            return self.get_seq_length()
        columns = self.progress.on(device)
        if self.knows_padding and tokens == 1:
            # Elsewhere reading the length would stall the device; there the write itself is out of bounds.
            if columns.device.type == "cpu" and not torch.compiler.is_compiling():
                self.check_room(int(columns) + 1)
            return columns
        self.check_room(int(columns) + tokens)
        return int(columns)

    def check_room(self, columns: int) -> None:
        """Refuse more columns than static global layers have.

        Raises:
            PolicyError: there are more.
        """
        if self.max_length is not None and self.policy.global_layers and columns > self.max_length:
            raise PolicyError(
                f"{columns} tokens do not fit into the static cache of max_length={self.max_length}; make a "
                "longer one, or one that grows: patches.WindowedCache(model.config)"
            )

    def open(self, step: Step) -> None:
        """A pass of the model begins; let static layers know where its tokens stand."""
        self.in_pass = True
        if self.progress is not None:
            self.progress.step = step

    def close(self, tokens: int) -> None:
        """Count the tokens of a pass that is over; growing layers count for themselves."""
        self.in_pass = False
        if self.progress is not None:
            self.progress.close(tokens)

    def begin(self, starts: Tensor | None, columns: int) -> None:
        """Note where the rows begin.

        Args:
            starts: ``[B]``, the first real column of each row; None when no row is padded.
            columns: Columns seen once this pass is over; a row that begins later has had padding alone.
        """
        self.begun = starts is None or bool((starts < columns).all())
        if self.progress is not None and starts is not None:
            if self.starts is not None and self.starts.shape == starts.shape:
                starts = self.starts.copy_(starts)
            else:
                # A mask read under inference mode must leave what can be written outside of it.
                with torch.inference_mode(False):
                    starts = starts.clone()
                keep_address(starts)
        self._set_starts(starts)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns seen, padding included; a static cache reads them from the device."""
        return super().get_seq_length(layer_idx) if self.progress is None else int(self.progress.columns)

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        """What transformers builds masks of its own from, as a tensor where reading it would stall."""
        return super().get_query_offset(layer_idx) if self.progress is None else self.progress.columns

    def reset(self) -> None:
        """Forget everything; only layers that grow give up their memory."""
        self.in_pass = False
        if self.progress is not None:
            self.progress.set(0)
        for index, layer in enumerate(self.layers):
            if isinstance(layer, CacheLayer | CompressedLayer):
                layer.reset()
            else:
                # transformers 5.17 only zeroes a growing layer on reset, which leaves its tokens in place.
                self.layers[index] = self._layer(index)
        self.begin(None, 0)

    def reorder_cache(self, beam_idx: Any) -> None:
        """Let row ``i`` become what row ``beam_idx[i]`` was."""
        super().reorder_cache(beam_idx)
        if self.starts is not None:
            self._set_starts(self.starts.index_select(0, beam_idx.to(self.starts.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times."""
        super().batch_repeat_interleave(repeats)
        if self.starts is not None:
            self._set_starts(self.starts.repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows ``indices``."""
        super().batch_select_indices(indices)
        if self.starts is not None:
            self._set_starts(self.starts[indices])

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens of every layer, or of none if one layer cannot; see ``WindowLayer.crop``.

        transformers 5.17 says how many by a tensor, which must not make lengths tensors.
        """
        length = self.get_seq_length()
        kept = tokens_to_remove if tokens_to_remove > 0 else length + tokens_to_remove
        # Never more than there is: transformers 5.17 cannot crop a growing layer that holds nothing yet.
        removed = length - min(max(int(kept), 0), length)
        for layer in self.layers:
            if isinstance(layer, WindowLayer | CompressedLayer):
                layer.check_kept(length - removed, length)
        for layer in self.layers:
            layer.crop(-removed)  # type: ignore[union-attr]
        if self.progress is not None:
            self.progress.set(length - removed)
        if self.starts is not None and removed:
            self.begin(self.starts.clamp(max=length - removed), length - removed)

    def _layer(self, index: int) -> CacheLayerMixin:
        window, sinks = self.policy.window_of(index), self.policy.sinks
        if self.progress is not None and self.max_length is not None:
            return static_layer(window, sinks, self.max_length, self.progress, self.layout)
        if window is None and self.offloaded:
            return OffloadedLayer(self.layout)
        alike = sum((window is None) == (index in self.policy.global_layers) for index in range(self.count))
        place = Place(index, window, 0 if window is None else sinks, alike, self.layout, self.checkpoint)
        return self.kv_cache.of(window).make(place)

    def _read_policy(self, config: PreTrainedConfig) -> WindowPolicy:
        policy: WindowPolicy | None = getattr(config, "window_policy", None)
        return policy or WindowPolicy.from_config(None, config.num_hidden_layers)

    def _set_starts(self, starts: Tensor | None) -> None:
        self.starts = starts
        # Layers that keep rows apart need them on the host; a static cache must not stop to read them.
        self.begins = None if starts is None or self.kv_cache.plain else tuple(starts.tolist())
