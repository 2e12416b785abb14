"""``full``: every token in the model's own dtype."""

from convert.caches.policy import KINDS, CachePolicy, Layer, Settings
from convert.caches.room import room


def check(_: Settings) -> None:
    """Nothing: it has no settings."""


def nbytes(_: Settings, layer: Layer, tokens: int) -> int:
    """All tokens with room for some more; in a window layer all slots of its ring, allocated at once."""
    return layer.token_bytes * (room(tokens) if layer.slots is None else layer.slots)


POLICY = CachePolicy("full", "every token in the model's dtype", KINDS, {}, check, nbytes, plain=True)
