"""Computing the layers while a text runs through the source and, beside it, the converted model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convert.calibration.reconstruct import Schedule, reconstruct
from convert.calibration.refit import Regression
from convert.calibration.streams import Streams, Wanted
from convert.calibration.text import CalibrationText
from convert.errors import ConvertError
from convert.heads import AttentionHeads
from convert.layerwise.job import Calibration, LayerJob, Progress
from convert.layerwise.merge import expand_heads, join_tensors, merge_heads, read_heads, split_tensors
from convert.layerwise.reading import open_streams, read_layer
from convert.layerwise.store import LayerStore
from convert.merging.inputs import Inputs

TEXT = "text"
"""Key under which a kept layer names the digest of its text; it does not go into the provenance."""


def compute_with_text(
    job: LayerJob, calibration: Calibration, text: CalibrationText, store: LayerStore, progress: Progress
) -> list[dict[str, Any]]:
    """Compute the layers in order while a text runs through the source and the converted model.

    Args:
        job: What to compute.
        calibration: What is done with the text.
        text: Its rows.
        store: Where layers are kept. Layers that are there already are only run, to bring both streams to the
            first that is missing.
        progress: Called after each batch and before each stage of a layer.

    Returns:
        What is known about each layer.

    Raises:
        ConvertError: a tensor cannot be merged, transformers cannot build the model, or a layer was kept that
            another text made.

    Holds: layers are those that computing them in one go gives (tests/convert/test_calibration_by_layer.py).
    """
    streams = open_streams(job, calibration, text, converted=calibration.repairs)
    per_layer = streams.batches * (2 if calibration.repairs else 1) + calibration.steps
    steps = _Steps(progress, job.shape.layers * per_layer)
    records = []
    for index in range(job.shape.layers):
        with streams.decoder.layer(index) as layer:
            worker = _Layer(job, calibration, streams, index, layer, steps, text.digest)
            kept = worker.rerun(store) or worker.compute(store)
        records.append(kept)
    return records


class _Steps:
    """Counts batches over all layers."""

    def __init__(self, progress: Progress, total: int):
        self.progress, self.total, self.done, self.stage = progress, total, 0, ""

    def begin(self, stage: str) -> None:
        self.stage = stage
        self.progress(stage, self.done, self.total)

    def tick(self, count: int = 1) -> None:
        self.done += count
        self.progress(self.stage, self.done, self.total)


@dataclass(frozen=True)
class _Layer:
    """One layer at work."""

    job: LayerJob
    calibration: Calibration
    streams: Streams
    index: int
    layer: nn.Module
    steps: _Steps
    digest: str

    def rerun(self, store: LayerStore) -> dict[str, Any] | None:
        """Bring the streams past a layer that was computed before; None if it was not.

        Raises:
            ConvertError: the layer was computed with another text.
        """
        kept = self.calibration.share.from_main(lambda: store.load(self.index))
        if kept is None:
            return None
        tensors, record = kept
        if record.pop(TEXT, None) != self.digest:
            raise ConvertError(
                f"calibrate={self.calibration.text!r} is another text than when this conversion began; give "
                "that one, or delete the unfinished conversion"
            )
        self.steps.begin(f"layer {self.index}: running what was computed before")
        _, wanted = self._read_source()
        if self.streams.converted is not None:
            heads = self._on_device(split_tensors(self.job, self.index, tensors))
            self._advance(heads, wanted)
        self.steps.tick(self.calibration.steps)
        return record

    def compute(self, store: LayerStore) -> dict[str, Any]:
        """Merge the layer, repair it, keep it, and bring the streams past it."""
        self.steps.begin(f"layer {self.index}: reading the text")
        inputs, wanted = self._read_source()
        heads = read_heads(self.job, self.index)
        merged = merge_heads(self.job, self.index, heads, inputs, torch.float32)
        settled = self._settle(merged.heads)
        if self.calibration.refit:
            self.steps.begin(f"layer {self.index}: refitting")
            settled = self._settle(self._refit(settled, wanted))
        if self.calibration.steps:
            self.steps.begin(f"layer {self.index}: reconstructing")
            settled = self._settle(self._reconstruct(settled, wanted))
        record = merged.record(self.job.search)
        if self.streams.converted is not None:
            self.steps.begin(f"layer {self.index}: running the converted layer")
            record["stream"] = round(self._advance(settled, wanted), 8)
        tensors = join_tensors(self.job, self.index, settled)
        self.calibration.share.from_main(
            lambda: store.save(self.index, tensors, record | {TEXT: self.digest})
        )
        return record

    def _read_source(self) -> tuple[Inputs, Wanted]:
        return read_layer(self.job, self.streams, self.index, self.layer, self.steps.tick)

    def _settle(self, heads: AttentionHeads) -> AttentionHeads:
        """Round to the result's dtypes, but stay in float32: what is measured is what is written."""
        # Machines that differ may solve the same sums differently; all go on with what the main one found.
        rounded = self.calibration.share.from_main(lambda: join_tensors(self.job, self.index, heads))
        return self._on_device(split_tensors(self.job, self.index, rounded))

    def _on_device(self, heads: AttentionHeads) -> AttentionHeads:
        parts = heads.parts().items()
        return AttentionHeads(**{role: part.float().to(self.streams.source.device) for role, part in parts})

    def _tensors(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The layer's own attention tensors, merged heads repeated."""
        heads = expand_heads(parts, self.job.shape.kv_heads)
        return self.job.family.join_layer(heads, self.job.source_shape, self.job.config)

    def _refit(self, heads: AttentionHeads, wanted: Wanted) -> AttentionHeads:
        parts = heads.parts()
        hidden_size = self.job.shape.hidden_size
        start = heads.o.transpose(0, 1).flatten(1)
        if heads.o_bias is not None:
            start = torch.cat([start, heads.o_bias[:, None]], dim=1)
        regression = Regression.empty(start.shape[1], hidden_size, start.device)
        for reads, gives in self.streams.read_heads(self.index, self.layer, self._tensors(parts), wanted):
            if heads.o_bias is not None:
                reads = torch.cat([reads, torch.ones_like(reads[:, :1])], dim=1)
            regression.add(reads, gives)
        self.calibration.share.add(regression.gram, regression.cross)
        solved = regression.solve(start).float()
        if heads.o_bias is not None:
            parts["o_bias"] = solved[:, -1]
            solved = solved[:, :-1]
        parts["o"] = solved.unflatten(1, heads.o.shape[::2]).transpose(0, 1)
        return AttentionHeads(**parts)

    def _reconstruct(self, heads: AttentionHeads, wanted: Wanted) -> AttentionHeads:
        def attend(parts: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
            return self.streams.attend(self.index, self.layer, self._tensors(parts), hidden)

        hidden = self.streams.converted
        if hidden is None:
            raise ValueError("reconstruction needs the converted stream")
        share, batch = self.calibration.share, self.calibration.batch
        schedule = Schedule(self.calibration.steps, batch, self.job.seed + self.index)
        # Steps draw rows from the whole text, and are few and small: the main process makes them.
        reads, gives = share.gather(hidden, batch), share.gather(wanted.stream, batch)
        return AttentionHeads(
            **share.from_main(
                lambda: reconstruct(heads.parts(), attend, reads, gives, schedule, self.steps.tick)
            )
        )

    def _advance(self, heads: AttentionHeads, wanted: Wanted) -> float:
        tensors = self._tensors(heads.parts())
        return self.streams.advance(self.index, self.layer, tensors, wanted, self.steps.tick)
