"""``patches.make_cache``: a cache with a policy of its own for a model that is already loaded."""

import inspect
from typing import Any
from weakref import WeakSet

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicSlidingWindowLayer

from patches.cache.policies import KvCache
from patches.cache.windowed import WindowedCache
from patches.modeling import WindowedMixin
from patches.policy import PolicyError, WindowPolicy
from patches.rows import row_starts
from patches.stock import attention

GLOBAL, SLIDING = "full_attention", "sliding_attention"


class StockCache(WindowedCache):
    """The cache of a stock model: a policy for layers that see everything, transformers' own for others."""

    def __init__(self, config: PreTrainedConfig, kv_cache: KvCache):
        """Make an empty cache.

        Args:
            config: Of a model of transformers.
            kv_cache: How tokens are kept.

        Raises:
            PolicyError: it has layers that neither see everything nor slide, or share their keys.
        """
        self.kinds = _kinds(config)
        self.reach: int = getattr(config, "sliding_window", None) or 0
        super().__init__(config, kv_cache=kv_cache)

    def _read_policy(self, config: PreTrainedConfig) -> WindowPolicy:
        return WindowPolicy.without_window(config.num_hidden_layers)

    def _layer(self, index: int) -> CacheLayerMixin:
        if self.kinds[index] == SLIDING:
            return DynamicSlidingWindowLayer(sliding_window=self.reach)
        return super()._layer(index)


def make_cache(model: PreTrainedModel, policy: str = "full", window_policy: str = "full") -> WindowedCache:
    """A cache for ``generate(past_key_values=...)`` or ``model(past_key_values=...)``, empty and used once.

    A stock model attends through ``sdpa`` from then on, and tells its caches where padded rows begin; what it
    computes without such a cache does not change beyond rounding.

    Args:
        model: A causal language model: windowed, with grouped heads, or one of transformers.
        policy: For layers that see everything, as ``python -m patches list`` names them: ``int4``,
            ``int8:residual=64``, ...
        window_policy: For layers with a window and sinks; of no meaning in a stock model.

    Raises:
        PolicyError: an unknown policy or setting, or a model whose attention cannot be chosen.
    """
    chosen = KvCache.from_specs(policy, window_policy)
    if isinstance(model, WindowedMixin):
        return WindowedCache(model.config, kv_cache=chosen)
    if window_policy != "full":
        raise PolicyError(f"window_policy={window_policy!r} needs a windowed model; this one has no sinks")
    config = model.config.get_text_config(decoder=True)
    cache = StockCache(config, chosen)
    if not chosen.plain:
        _prepare(model)
    return cache


_PREPARED: WeakSet[PreTrainedModel] = WeakSet()


def _prepare(model: PreTrainedModel) -> None:
    """Let a stock model read compressed caches, and tell them where its rows begin."""
    attention.register()
    if not getattr(model, "_supports_attention_backend", False):
        raise PolicyError(
            f"{type(model).__name__} does not let its attention be chosen, so nothing could read a "
            "compressed cache; convert it to a windowed class, or use policy 'full'"
        )
    model.set_attn_implementation(attention.COMPRESSED)
    if model not in _PREPARED:
        signature = inspect.signature(model.forward)

        def tell(_: Any, args: Any, kwargs: Any) -> None:
            given = signature.bind_partial(*args, **kwargs).arguments
            cache, mask = given.get("past_key_values"), given.get("attention_mask")
            if isinstance(cache, StockCache) and isinstance(mask, Tensor):
                cache.begin(row_starts(mask), mask.shape[-1])

        model.register_forward_pre_hook(tell, with_kwargs=True)
        _PREPARED.add(model)


def _kinds(config: PreTrainedConfig) -> list[str]:
    """Which layers see everything and which slide.

    Raises:
        PolicyError: there are others.
    """
    sliding = getattr(config, "sliding_window", None)
    kinds = (
        getattr(config, "layer_types", None) or [SLIDING if sliding else GLOBAL] * config.num_hidden_layers
    )
    others = sorted(set(kinds) - {GLOBAL, SLIDING})
    if getattr(config, "num_kv_shared_layers", 0):
        others.append("layers that share their keys")
    if others:
        raise PolicyError(f"make_cache: {config.model_type} has {', '.join(others)}, which no policy serves")
    return list(kinds)
