"""``int8``: older keys and values in 8 bits, keys by channel and values by token."""

from functools import partial

from patches.cache import quantization
from patches.cache.policies.policy import CachePolicy

POLICY = CachePolicy(
    name="int8",
    summary="tokens before the most recent in 8 bits, keys by channel and values by token (KIVI)",
    make=partial(quantization.make, 8),
    nbytes=partial(quantization.nbytes, 8),
    **quantization.FACTS,
)
