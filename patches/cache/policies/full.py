"""``full``: every token in the model's own dtype, as many as the layer sees."""

from dataclasses import dataclass

from patches.cache.growing import GrowingLayer
from patches.cache.layer import CacheLayer
from patches.cache.policies.policy import CachePolicy, Place, Tokens
from patches.cache.room import room
from patches.cache.window import WindowLayer


@dataclass(frozen=True)
class Options:
    """No settings."""


def make(options: Options, place: Place) -> CacheLayer:
    """A ring behind the sinks; a growing layer without a window."""
    if place.window is None:
        return GrowingLayer(place.layout)
    return WindowLayer(place.window, place.sinks, place.layout)


def nbytes(options: Options, tokens: Tokens) -> int:
    """Keys and values: of all tokens with room for some more, or of all slots of a ring."""
    place = tokens.place
    held = room(tokens.tokens) if place.window is None else place.window + place.sinks
    return 2 * held * tokens.kv_heads * tokens.head_dim * tokens.element_bytes


POLICY = CachePolicy(
    name="full",
    summary="every token in the model's dtype",
    kinds=("global", "window"),
    options=Options,
    make=make,
    nbytes=nbytes,
    formula="2 K D e per token, with room for at most 1/32 more; in a window layer of S + W tokens, at once",
    frees=False,
    needs_scores=False,
    exact=True,
    padding=True,
    beam=True,
    crop="any token of a global layer; of a window layer before its ring wraps",
    compiles=True,
    peak="keys or values of one layer while they grow; the joined tokens of a chunk in a window layer",
)
