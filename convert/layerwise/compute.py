"""Computing every layer of a result, from its weights alone or with a text that runs through the model."""

from collections.abc import Callable
from typing import Any

from convert.layerwise.calibrated import compute_with_text
from convert.layerwise.job import LayerJob
from convert.layerwise.merge import join_tensors, merge_heads, read_heads
from convert.layerwise.reading import read_calibration
from convert.layerwise.store import LayerStore
from convert.merging.inputs import Inputs
from convert.provenance import describe_layers

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and the steps done and in all."""


def compute(job: LayerJob, store: LayerStore, progress: Progress) -> dict[str, Any]:
    """Compute every layer of a job.

    Args:
        job: What to compute.
        store: Where layers are kept; those that are there already are not computed again.
        progress: Called as work goes on.

    Returns:
        Keys for the provenance.

    Raises:
        ConvertError: the text cannot be read, a tensor cannot be merged, or the model cannot be built.
    """
    calibration = job.calibration
    if calibration is None:
        return describe_layers(compute_layers(job, store, progress), None, None)
    text = read_calibration(job, calibration)
    records = compute_with_text(job, calibration, text, store, progress)
    return describe_layers(records, calibration, text)


def compute_layers(job: LayerJob, store: LayerStore, progress: Progress) -> list[dict[str, Any]]:
    """Compute the layers from their weights alone.

    Args:
        job: What to compute.
        store: Where layers are kept; those that are there already are not computed again.
        progress: Called before each layer.

    Returns:
        What is known about each layer.

    Raises:
        ConvertError: a tensor cannot be merged.
    """
    records = []
    for layer in range(job.shape.layers):
        progress(f"layer {layer}: merging", layer, job.shape.layers)
        kept = store.load(layer)
        if kept is None:
            merged = merge_heads(job, layer, read_heads(job, layer), Inputs(), None)
            kept = join_tensors(job, layer, merged.heads), merged.record(job.search)
            store.save(layer, *kept)
        records.append(kept[1])
    return records
