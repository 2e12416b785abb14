"""A tiny checkpoint and what its family says of it."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from convert.attention import AttentionShape, read_shape
from convert.families.family import Family
from convert.heads import AttentionHeads

MERGED = ("k", "v", "k_bias", "v_bias", "k_norm")


class Source:
    """A tiny checkpoint of one case: its folder, family, config and shape."""

    def __init__(self, folder: Path, family: Family) -> None:
        self.folder, self.family = folder, family
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.shape: AttentionShape = read_shape(family, self.config)
        self.tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")

    def split(self, layer: int, tensors: dict[str, Tensor] | None = None) -> AttentionHeads:
        """Heads of one layer."""
        found = self.tensors if tensors is None else tensors
        suffixes = self.family.layout.roles(self.config)
        named = {suffix: found[self.family.tensor(layer, suffix)] for suffix in suffixes}
        return self.family.split_layer(named, self.shape.layer(), self.config)

    def fewer(self) -> list[int]:
        """Numbers of KV heads that it can be converted to: half, and one where that is another form."""
        half = self.shape.kv_heads // 2
        return [half] if self.family.grouped else [count for count in (half, 1) if count]

    def join(self, layer: int, heads: AttentionHeads) -> dict[str, Tensor]:
        """Tensors of one layer, by full name."""
        joined = self.family.join_layer(heads, self.shape.layer(), self.config)
        return {self.family.tensor(layer, suffix): tensor for suffix, tensor in joined.items()}


def duplicate_heads(source: Source, count: int, folder: Path) -> None:
    """Write the source with all KV heads of a group equal."""
    folder.mkdir()
    size = source.shape.kv_heads // count
    tensors = dict(source.tensors)
    for layer in range(source.shape.layers):
        parts = source.split(layer).parts()
        equal = {
            role: part[::size].repeat_interleave(size, 0) for role, part in parts.items() if role in MERGED
        }
        tensors |= source.join(layer, AttentionHeads(**parts | equal))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(source.config))


def repeat_heads(source: Source, count: int, out: Path) -> None:
    """Turn a result for classes of ours back into the source's architecture, each KV head repeated."""
    tensors = load_file(out / "model.safetensors")
    size = source.shape.kv_heads // count
    for layer in range(source.shape.layers):
        suffixes = source.family.layout.roles(source.config)
        named = {suffix: tensors[source.family.tensor(layer, suffix)] for suffix in suffixes}
        parts = source.family.split_layer(named, source.shape.layer(count), source.config).parts()
        repeated = {role: part.repeat_interleave(size, 0) for role, part in parts.items() if role in MERGED}
        tensors |= source.join(layer, AttentionHeads(**parts | repeated))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(source.config))
