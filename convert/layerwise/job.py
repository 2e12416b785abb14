"""What is to be computed for every layer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.attention import AttentionShape
from convert.calibration.share import ALONE, Share
from convert.families.family import Family
from convert.families.layouts.layout import Layout
from convert.heads import HeadShape
from convert.merging.method import MergeMethod
from convert.weights.checkpoint import Weights

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and the steps done and in all."""


@dataclass(frozen=True)
class Calibration:
    """A text that is read through the model, and what is done with it.

    Args:
        text: File or data set, as the user names it.
        tokens: Tokens to read.
        batch: Rows that are run at once.
        device: Where the layers run, as torch names it.
        refit: Whether output projections are solved anew.
        steps: Training steps on each layer's attention; 0: none.
        share: The processes that read the text together.
    """

    text: str
    tokens: int
    batch: int
    device: str
    refit: bool
    steps: int
    share: Share = ALONE

    @property
    def repairs(self) -> bool:
        """Whether the converted model's stream is needed beside the source's."""
        return self.refit or self.steps > 0


@dataclass(frozen=True)
class LayerJob:
    """A conversion that is computed layer by layer.

    Args:
        folder: The source checkpoint.
        weights: Its weight files.
        family: Its family.
        config: Its ``config.json``.
        shape: Its attention shape.
        bare: Whether its tensor names leave out the base model.
        kv_heads: KV heads of the result, layer by layer.
        method: How groups are merged.
        search: Whether groups are searched for; if not, neighbours form a group.
        seed: For the search, for methods that draw and for training.
        initializer_range: Standard deviation with which the family initialises its weights.
        layout: How the result stores attention.
        dtype: Safetensors type of the result's floating tensors; None keeps each one's own.
        calibration: The text, or None.
    """

    folder: Path
    weights: Weights
    family: Family
    config: dict[str, Any]
    shape: AttentionShape
    bare: bool
    kv_heads: tuple[int, ...]
    method: MergeMethod
    search: bool
    seed: int
    initializer_range: float
    layout: Layout
    dtype: str | None
    calibration: Calibration | None

    @property
    def source_shape(self) -> HeadShape:
        """Sizes of a source layer."""
        return self.shape.layer()

    def result_shape(self, layer: int) -> HeadShape:
        """Sizes of a layer of the result."""
        return self.shape.layer(self.kv_heads[layer])

    def names(self, layer: int) -> dict[str, str]:
        """Name every attention tensor of a layer in the checkpoint, by suffix."""
        suffixes = self.family.layout.roles(self.config)
        return {suffix: self.family.tensor(layer, suffix, self.bare) for suffix in suffixes}
