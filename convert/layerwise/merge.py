"""Merging one layer by what is known about its inputs: grouping, the method, and what it loses."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from convert.errors import ConvertError
from convert.grouping import adjacent_groups
from convert.heads import AttentionHeads
from convert.layerwise.columns import from_columns, to_columns
from convert.layerwise.heads import Setting, merge_group, merge_layer, reorder, select
from convert.layerwise.job import LayerJob
from convert.layerwise.loss import measure_loss
from convert.layerwise.search import search_groups
from convert.merging.inputs import Inputs
from convert.merging.method import Groups, MergeContext
from convert.weights.tensors import cast


@dataclass(frozen=True)
class MergedLayer:
    """A layer with fewer KV heads.

    Args:
        heads: The heads, in the dtype that was asked for.
        groups: For each new head the source heads it replaces, in the order of the new heads.
        key_error: Squared error of the scores as a share of their square.
        value_error: Squared error of the values' contributions as a share of their square.
    """

    heads: AttentionHeads
    groups: Groups
    key_error: float
    value_error: float

    def record(self, searched: bool) -> dict[str, Any]:
        """What the provenance says about the layer."""
        record: dict[str, Any] = {"keys": round(self.key_error, 6), "values": round(self.value_error, 6)}
        return record | ({"groups": [list(group) for group in self.groups]} if searched else {})


def read_heads(job: LayerJob, layer: int) -> AttentionHeads:
    """Read one layer's attention from the source.

    Raises:
        ConvertError: a tensor holds NaN or infinity.
    """
    tensors: dict[str, Tensor] = {}
    for suffix, name in job.names(layer).items():
        with safe_open(os.fspath(job.weights.tensors[name].file.path), framework="pt") as file:
            tensors[suffix] = file.get_tensor(name)
        if not bool(tensors[suffix].isfinite().all()):
            raise ConvertError(f"tensor {name!r} holds NaN or infinity and cannot be merged")
    return job.family.split_layer(tensors, job.source_shape, job.config)


def join_tensors(job: LayerJob, layer: int, heads: AttentionHeads) -> dict[str, Tensor]:
    """Store a converted layer as the result does: tensors in its dtypes, by their names in the checkpoint.

    Raises:
        ConvertError: a number does not fit its dtype.
    """
    parts, shape = heads.parts(), job.result_shape(layer)
    joined = {}
    for suffix, name in job.names(layer).items():
        dtype = job.dtype or job.weights.tensors[name].entry.dtype
        joined[name] = cast(job.layout.join(suffix, parts, shape), dtype, name)
    return joined


def split_tensors(job: LayerJob, layer: int, tensors: Mapping[str, Tensor]) -> AttentionHeads:
    """Undo ``join_tensors``."""
    parts: dict[str, Tensor] = {}
    for suffix, name in job.names(layer).items():
        parts |= job.layout.split(suffix, tensors[name], job.result_shape(layer))
    return AttentionHeads(**parts)


def merge_heads(
    job: LayerJob, layer: int, heads: AttentionHeads, inputs: Inputs, dtype: torch.dtype | None
) -> MergedLayer:
    """Merge the KV heads of one layer.

    Args:
        job: How.
        layer: Its number.
        heads: As in the source.
        inputs: What the projections read.
        dtype: Dtype of the result; None: that of the heads.

    Returns:
        The merged layer.
    """
    columns = to_columns(heads)
    rotary = job.family.rotary(job.config, layer)
    setting = Setting(
        method=job.method,
        rotary=rotary,
        key_norm=job.family.key_norm(job.config),
        inputs=inputs,
        context=MergeContext(f"layer {layer}", "weight", job.seed, job.initializer_range),
    )
    groups = _groups(job, layer, columns, setting)
    merged = merge_layer(columns, groups, setting)
    loss = measure_loss(reorder(columns, groups), merged, rotary, inputs)
    like = heads if dtype is None else cast_heads(heads, dtype)
    return MergedLayer(from_columns(merged, like), groups, loss.key_share, loss.value_share)


def cast_heads(heads: AttentionHeads, dtype: torch.dtype) -> AttentionHeads:
    """Convert every part of a layer to one dtype."""
    return replace(heads, **{role: tensor.to(dtype) for role, tensor in heads.parts().items()})


def expand_heads(parts: Mapping[str, Tensor], kv_heads: int) -> AttentionHeads:
    """Repeat merged KV heads until there are as many as in the source, which computes the same."""
    repeated = {
        role: tensor.repeat_interleave(kv_heads // len(tensor), dim=0)
        for role, tensor in parts.items()
        if role.startswith(("k", "v"))
    }
    return AttentionHeads(**{**parts, **repeated})


def weighed(columns: AttentionHeads, setting: Setting) -> tuple[AttentionHeads, Setting]:
    """Multiply the projections by the root of their inputs' second moment, so that no group has to.

    Args:
        columns: All heads of a layer.
        setting: How they would be merged; not by ``random``, which does not read them.

    Returns:
        Heads and setting by which every group loses exactly what it loses by these.

    Holds: for every method (tests/convert/test_grouping.py).
    """
    seen = {role: setting.inputs.seen(getattr(columns, role)) for role in ("q", "k", "v")}
    return replace(columns, **seen), replace(setting, inputs=replace(setting.inputs, root=None))


def _groups(job: LayerJob, layer: int, columns: AttentionHeads, setting: Setting) -> Groups:
    size = job.shape.kv_heads // job.kv_heads[layer]
    if not job.search:
        return adjacent_groups(job.shape.kv_heads, job.kv_heads[layer])
    columns, setting = weighed(columns, setting)
    whole = measure_loss(columns, columns, setting.rotary, setting.inputs)

    def cost(group: tuple[int, ...]) -> float:
        merged = merge_group(columns, group, setting)
        loss = measure_loss(select(columns, group), merged, setting.rotary, setting.inputs)
        return loss.keys / (whole.key_total or 1.0) + loss.values / (whole.value_total or 1.0)

    return search_groups(job.shape.kv_heads, size, cost, job.seed)
