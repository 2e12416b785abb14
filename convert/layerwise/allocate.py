"""``--kv-heads auto:MEAN``: measuring what each layer would lose, and sharing the heads out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from convert.head_counts import allocate_heads, divisors_of
from convert.layerwise.job import Calibration, LayerJob, Progress

if TYPE_CHECKING:
    from convert.merging.inputs import Inputs


def measure_and_allocate(job: LayerJob, mean: float, progress: Progress) -> tuple[int, ...]:
    """Choose how many KV heads each layer keeps.

    Args:
        job: The conversion; its own ``kv_heads`` are not used.
        mean: KV heads per layer on average, at most.
        progress: Called as layers are measured.

    Returns:
        KV heads of every layer, with the least summed loss: the error of the scores and of what values
        contribute, each as a share of the layer's own.

    Raises:
        ConvertError: the text cannot be read, a tensor cannot be merged, or the model cannot be built.
    """
    from convert.layerwise.merge import merge_heads, read_heads

    counts = divisors_of(job.shape.kv_heads)
    losses = []
    for layer, inputs in enumerate(_inputs(job, progress)):
        heads = read_heads(job, layer)
        found = {}
        for count in counts:
            tried = replace(job, kv_heads=(count,) * job.shape.layers)
            merged = merge_heads(tried, layer, heads, inputs, None)
            found[count] = merged.key_error + merged.value_error
        losses.append(found)
    return allocate_heads(losses, mean)


def _inputs(job: LayerJob, progress: Progress) -> Iterator[Inputs]:
    """What the projections of each layer read, as far as it is known."""
    from convert.merging.inputs import Inputs

    if job.calibration is not None:
        yield from _inputs_with_text(job, job.calibration, progress)
        return
    for layer in range(job.shape.layers):
        progress(f"layer {layer}: measuring what merging would lose", layer, job.shape.layers)
        yield Inputs()


def _inputs_with_text(job: LayerJob, calibration: Calibration, progress: Progress) -> Iterator[Inputs]:
    from convert.layerwise.reading import open_streams, read_calibration, read_layer

    streams = open_streams(job, calibration, read_calibration(job, calibration), converted=False)
    total = job.shape.layers * streams.batches
    for layer in range(job.shape.layers):
        done = layer * streams.batches
        progress(f"layer {layer}: measuring what merging would lose", done, total)
        with streams.decoder.layer(layer) as module:
            inputs, _ = read_layer(job, streams, layer, module, lambda: None)
        yield inputs
