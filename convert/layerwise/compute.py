"""Computing every layer of a result, from its weights alone or with a text that runs through the model."""

from typing import Any

import torch

from convert.errors import ConvertError
from convert.layerwise.calibrated import compute_with_text
from convert.layerwise.job import LayerJob, Progress
from convert.layerwise.memory import return_large_blocks
from convert.layerwise.merge import join_tensors, merge_heads, read_heads
from convert.layerwise.reading import read_calibration
from convert.layerwise.store import LayerStore
from convert.merging.inputs import Inputs
from convert.provenance import describe_layers


def compute(job: LayerJob, store: LayerStore, progress: Progress) -> dict[str, Any]:
    """Compute every layer of a job.

    Args:
        job: What to compute.
        store: Where layers are kept; those that are there already are not computed again.
        progress: Called as work goes on.

    Returns:
        Keys for the provenance.

    Raises:
        ConvertError: the text cannot be read, a tensor cannot be merged, or the model cannot be built or does
            not fit into the device's memory.
    """
    return_large_blocks()
    calibration = job.calibration
    if calibration is None:
        return describe_layers(compute_layers(job, store, progress), None, None)
    text = read_calibration(job, calibration)
    try:
        records = compute_with_text(job, calibration, text, store, progress)
    except torch.OutOfMemoryError as error:
        raise ConvertError(
            f"device={calibration.device!r} lacks memory for calibrate_batch={calibration.batch} and "
            f"calibrate_tokens={calibration.tokens}; give fewer"
        ) from error
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
