"""Which cache ``generate`` makes for a windowed model, by what ``cache_implementation`` asks for."""

from typing import Any

from patches.cache.windowed import WindowedCache
from patches.policy import PolicyError

REFUSED = {
    "quantized": "it has no sinks and no window; pass past_key_values=patches.make_cache(model, 'int8')",
    "offloaded_static": "layers of fixed shape stay on their device; choose 'static' or 'offloaded'",
}
"""Why a cache of transformers is not made, for those with a reason of their own."""
SLIDING = "it is a sliding window without sinks, which this checkpoint's own cache replaces; leave it out"


def cache_for(config: Any, implementation: str | None, max_length: int) -> WindowedCache:
    """The cache that a ``cache_implementation`` of transformers stands for.

    Args:
        config: Of a windowed model.
        implementation: None or ``dynamic`` grows global layers, ``offloaded`` grows them in CPU memory,
            ``static`` fixes every shape.
        max_length: Tokens that a static cache must hold, padding included.

    Raises:
        PolicyError: any other name, with the reason and what to use.
    """
    if implementation in (None, "dynamic"):
        return WindowedCache(config)
    if implementation == "offloaded":
        return WindowedCache(config, offload=True)
    if implementation == "static":
        return WindowedCache(config, max_length=max_length)
    reason = REFUSED.get(str(implementation), SLIDING)
    raise PolicyError(f"cache_implementation={implementation!r} cannot serve a windowed model: {reason}")
