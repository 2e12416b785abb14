"""What the policies that store codes share: their settings, layers and bytes."""

from dataclasses import dataclass
from typing import Any

from transformers.cache_utils import CacheLayerMixin

from patches.cache.codes import Coding
from patches.cache.policies.policy import Place, Tokens, check_count
from patches.cache.quantized import QuantizedLayer
from patches.cache.quantized_reading import Division
from patches.cache.quantized_ring import QuantizedRing
from patches.cache.window import WindowLayer


@dataclass(frozen=True)
class Options:
    """Settings.

    Attributes:
        block: Tokens that become codes at once; their keys share a span and a zero in every channel.
        group: Channels whose values share them in every token.
        residual: Most recent tokens that stay in the model's dtype.
        sinks: First tokens of a global layer that stay so too; a window layer keeps the sinks of the model.
    """

    block: int = 32
    group: int = 32
    residual: int = 64
    sinks: int = 4

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            PolicyError: one is out of range.
        """
        check_count("block", self.block, 1)
        check_count("group", self.group, 1)
        check_count("residual", self.residual, 0)
        check_count("sinks", self.sinks, 0)


def make(bits: int, options: Options, place: Place) -> CacheLayerMixin:
    """A layer for a place; a ring of exact tokens where the window has no room for a block of codes."""
    coding, division = _parts(bits, options, place)
    if place.window is None:
        return QuantizedLayer(coding, division)
    if place.window <= division.ring:
        return WindowLayer(place.window, place.sinks, place.layout)
    return QuantizedRing(coding, division)


def nbytes(bits: int, options: Options, tokens: Tokens) -> int:
    """What one layer holds for one sequence: exact tokens at once, and codes of whole blocks."""
    coding, division = _parts(bits, options, tokens.place)
    window, blocks = division.window, division.blocks
    exact = division.sinks + division.ring
    if blocks is None:
        blocks = division.coded(tokens.tokens) // division.block
    elif window is not None and window <= division.ring:
        exact, blocks = division.sinks + window, 0
    per_head = 2 * exact * tokens.head_dim * tokens.element_bytes + blocks * coding.block_bytes(
        tokens.head_dim
    )
    return tokens.kv_heads * per_head


def _parts(bits: int, options: Options, place: Place) -> tuple[Coding, Division]:
    sinks = options.sinks if place.window is None else place.sinks
    return (
        Coding(bits, options.block, options.group),
        Division(sinks, options.residual, options.block, place.window),
    )


FACTS: dict[str, Any] = {
    "kinds": ("global", "window"),
    "options": Options,
    "formula": (
        "2 K D e for each of sinks + residual + block tokens, at once; behind them whole blocks, for each "
        "token K (2 D bits/8 + 4 D / block + 4 ceil(D / group)); in a window layer those of W - residual "
        "tokens, at once"
    ),
    "frees": True,
    "needs_scores": False,
    "exact": False,
    "padding": True,
    "beam": True,
    "crop": "as long as the tokens that are then the most recent are still exact",
    "compiles": False,
    "peak": "less than 4096 tokens of one layer in float32; its codes once more when blocks are added",
}
"""What is true of all of them."""
