"""Jobs, requests and texts for tests of calibration."""

from pathlib import Path

import torch
from torch import Tensor

from convert import Request
from convert.calibration.text import CalibrationText
from convert.layerwise.job import LayerJob
from convert.merging import METHODS
from convert.weights.checkpoint import open_weights
from tests.convert.sources import Source

ROWS = torch.arange(4 * 24).reshape(4, 24) * 7 % 61
"""Token ids of a text."""


def job_of(source: Source, kv_heads: int, method: str = "subspace") -> LayerJob:
    """A conversion of every layer to as many KV heads."""
    weights = open_weights(source.folder)
    return LayerJob(
        folder=source.folder,
        weights=weights,
        family=source.family,
        config=source.config,
        shape=source.shape,
        bare=source.family.is_bare(weights.tensors),
        kv_heads=(kv_heads,) * source.shape.layers,
        method=METHODS[method],
        search=False,
        seed=0,
        initializer_range=0.02,
        layout=source.family.layout,
        dtype=None,
        calibration=None,
    )


def rows_as_text(rows: Tensor) -> CalibrationText:
    """A text of which only the rows matter."""
    return CalibrationText("rows", rows, "sha256:0")


def request_with(source: Path, out: Path, text: Path, **options: object) -> Request:
    """A request with a small text (none if ``calibrate`` is None), changed by options."""
    defaults: dict[str, object] = {"kv_heads": 1}
    if options.get("calibrate", text) is not None:
        defaults |= {"calibrate": str(text), "calibrate_tokens": 2048, "calibrate_batch": 4}
    return Request(str(source), out, **{**defaults, **options})
