"""``full``: every token in the model's own dtype, as many as the layer sees."""

from dataclasses import dataclass

from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from patches.cache.policies.policy import CachePolicy, Place, Tokens
from patches.cache.window import WindowLayer


@dataclass(frozen=True)
class Options:
    """No settings."""


def make(options: Options, place: Place) -> CacheLayerMixin:
    """A ring behind the sinks; a growing layer without a window."""
    return DynamicLayer() if place.window is None else WindowLayer(place.window, place.sinks)


def nbytes(options: Options, tokens: Tokens) -> int:
    """Keys and values: of all tokens, or of all slots of a ring, which are allocated at once."""
    place = tokens.place
    held = tokens.tokens if place.window is None else place.window + place.sinks
    return 2 * held * tokens.kv_heads * tokens.head_dim * tokens.element_bytes


POLICY = CachePolicy(
    name="full",
    summary="every token in the model's dtype",
    kinds=("global", "window"),
    options=Options,
    make=make,
    nbytes=nbytes,
    formula="2 K D e per token; in a window layer of S + W tokens, at once",
    frees=False,
    needs_scores=False,
    exact=True,
    padding=True,
    beam=True,
    crop="any token of a global layer; of a window layer before its ring wraps",
    compiles=True,
    peak="the joined tokens of one layer",
)
