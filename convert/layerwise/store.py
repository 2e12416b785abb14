"""Computed layers on disk: each is complete or absent, so that a killed conversion can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from convert.layerwise.job import LayerJob
from convert.weights.header import read_header

if TYPE_CHECKING:
    from torch import Tensor

    from convert.weights.arrays import StoredTensor

RECORD = "record"


@dataclass(frozen=True)
class LayerStore:
    """The layers computed so far, one safetensors file each.

    Args:
        folder: Where they are; it is made when the first one is saved.
        sync: Whether a layer is forced to disk before it counts as kept.
    """

    folder: Path
    sync: bool = True

    def path(self, layer: int) -> Path:
        """Give the file of a layer."""
        return self.folder / f"layer-{layer:05d}.safetensors"

    def save(self, layer: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Keep a layer.

        Args:
            layer: Its number.
            tensors: Its attention tensors, by their names in the checkpoint, in the result's dtypes.
            record: What is known about it, to be written into the provenance.
        """
        from safetensors.torch import save_file

        self.folder.mkdir(exist_ok=True)
        unfinished = self.path(layer).with_suffix(".unfinished")
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, unfinished, metadata={RECORD: json.dumps(record)})
        if self.sync:
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
        unfinished.rename(self.path(layer))

    def load(self, layer: int) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Give a layer that was kept, or None if it is not there or cannot be read."""
        try:
            with safe_open(self.path(layer), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                return tensors, json.loads((file.metadata() or {}).get(RECORD, "{}"))
        except (OSError, SafetensorError):
            return None


@dataclass(frozen=True)
class ComputedTensor:
    """A tensor of the result that was computed with its layer: an edit of the source's tensor.

    Args:
        name: Its name in the checkpoint.
        layer: Its layer.
        shape: Its shape in the result.
        store: Where it is kept; None while the conversion is only planned.
    """

    name: str
    layer: int
    shape: tuple[int, ...]
    store: LayerStore | None = None

    def apply(self, tensor: StoredTensor) -> StoredTensor:
        """Give the computed tensor in place of the source's.

        Args:
            tensor: The source's; not used.

        Raises:
            ValueError: the layer has not been computed.
        """
        from convert.weights.arrays import load_stored

        if self.store is None:
            raise ValueError(f"{self.name} has no computed layers yet")
        kept = self.store.path(self.layer)
        entry = next(entry for entry in read_header(kept).entries if entry.name == self.name)
        with kept.open("rb") as file:
            return load_stored(file.fileno(), entry)


def plan_layers(job: LayerJob) -> dict[str, ComputedTensor]:
    """List the tensors of a result that are computed, by name."""
    computed = {}
    for layer in range(job.shape.layers):
        for suffix, name in job.names(layer).items():
            shape = job.layout.size(suffix, job.result_shape(layer))
            computed[name] = ComputedTensor(name, layer, shape)
    return computed
