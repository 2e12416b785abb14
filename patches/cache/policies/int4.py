"""``int4``: older keys and values in 4 bits, keys by channel and values by token."""

from functools import partial

from patches.cache import quantization
from patches.cache.policies.policy import CachePolicy

POLICY = CachePolicy(
    name="int4",
    summary="tokens before the most recent in 4 bits, keys by channel and values by token (KIVI)",
    make=partial(quantization.make, 4),
    nbytes=partial(quantization.nbytes, 4),
    **quantization.FACTS,
)
