"""How one layer's attention is stored: names and shapes of its tensors, and where the heads are in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from convert.families.keys import Config, Switch, is_on
from convert.heads import HeadShape

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Array = TypeVar("Array", "NDArray[Any]", "Tensor")
"""Weights are streamed as numpy arrays and computed with as tensors; layouts use what both can do."""


@dataclass(frozen=True)
class Layout(ABC):
    """One physical layout. Tensors are named by suffix: what follows the name of the attention module.

    Args:
        output: Name of the output projection.
        qkv_bias: Whether queries, keys and values have biases.
        output_bias: Whether the output projection has one.
        conv1d: Whether weights are stored as ``[in, out]`` (GPT-2's Conv1D) instead of ``[out, in]``.
        norms: Names of the query and the key norm whose weights differ by head, if there are such.
        has_norms: Whether those norms exist.
        norm_rows: Whether their weights are ``[heads, head_dim]``; if not, they are flat.
    """

    output: str = "o_proj"
    qkv_bias: Switch = False
    output_bias: Switch = False
    conv1d: bool = False
    norms: tuple[str, str] | None = None
    has_norms: Switch = True
    norm_rows: bool = False

    @property
    @abstractmethod
    def projections(self) -> dict[str, tuple[str, ...]]:
        """Name of each input projection, and which of ``q``, ``k`` and ``v`` it computes."""

    def roles(self, config: Config | None = None) -> dict[str, tuple[str, ...]]:
        """Say what every tensor of a layer holds.

        Args:
            config: ``config.json``; None: with every bias and norm that a checkpoint of the family may have.

        Returns:
            For each suffix, the fields of ``AttentionHeads`` that are in the tensor.
        """
        roles: dict[str, tuple[str, ...]] = {}
        for name, parts in self.projections.items():
            roles[f"{name}.weight"] = parts
            if config is None or is_on(self.qkv_bias, config):
                roles[f"{name}.bias"] = tuple(f"{part}_bias" for part in parts)
        roles[f"{self.output}.weight"] = ("o",)
        if config is None or is_on(self.output_bias, config):
            roles[f"{self.output}.bias"] = ("o_bias",)
        if self.norms is not None and (config is None or is_on(self.has_norms, config)):
            roles |= {f"{self.norms[0]}.weight": ("q_norm",), f"{self.norms[1]}.weight": ("k_norm",)}
        return roles

    def tensors(self, shape: HeadShape, config: Config) -> dict[str, tuple[int, ...]]:
        """Give the shape of every attention tensor of a layer, by suffix."""
        return {suffix: self.size(suffix, shape) for suffix in self.roles(config)}

    def size(self, suffix: str, shape: HeadShape) -> tuple[int, ...]:
        """Give the shape of one tensor."""
        roles = self.roles()[suffix]
        if roles == ("o_bias",):
            return (shape.hidden_size,)
        if roles == ("o",):
            size = (shape.hidden_size, shape.heads * shape.head_dim)
            return size[::-1] if self.conv1d else size
        heads = sum(_heads(role, shape) for role in roles)
        if roles[0].endswith("_norm") and self.norm_rows:
            return (heads, shape.head_dim)
        if not _is_matrix(roles):
            return (heads * shape.head_dim,)
        size = (heads * shape.head_dim, shape.hidden_size)
        return size[::-1] if self.conv1d else size

    def split(self, suffix: str, tensor: Array, shape: HeadShape) -> dict[str, Array]:
        """Take the heads out of one tensor.

        Args:
            suffix: Which tensor.
            tensor: Of the shape that ``size`` gives; any dtype, kept.
            shape: Sizes of the layer.

        Returns:
            For each of its roles, the heads as in ``AttentionHeads``.

        Holds: ``join`` gives the tensor back bit for bit (tests/convert/test_layouts.py).
        """
        roles = self.roles()[suffix]
        if roles == ("o_bias",):
            return {"o_bias": tensor}
        rows = tensor.swapaxes(0, 1) if self.conv1d and _is_matrix(roles) else tensor
        if roles == ("o",):
            return {"o": rows.reshape(shape.hidden_size, shape.heads, shape.head_dim).swapaxes(0, 1)}
        if roles[0].endswith("_norm"):
            return {roles[0]: rows.reshape(-1, shape.head_dim)}
        return self.unpack(roles, rows, shape)

    def join(self, suffix: str, parts: Mapping[str, Array], shape: HeadShape) -> Array:
        """Put heads into one tensor: the inverse of ``split``.

        Args:
            suffix: Which tensor.
            parts: Its roles, as in ``AttentionHeads``; others are ignored.
            shape: Sizes of the layer that the heads are of.

        Returns:
            The tensor, of the shape that ``size`` gives.
        """
        roles, size = self.roles()[suffix], self.size(suffix, shape)
        if roles == ("o_bias",) or roles[0].endswith("_norm"):
            return parts[roles[0]].reshape(size)
        if roles == ("o",):
            rows = parts["o"].swapaxes(0, 1).reshape(shape.hidden_size, -1)
        else:
            rows = self.pack([parts[role] for role in roles], shape)
        return rows.swapaxes(0, 1) if self.conv1d and _is_matrix(roles) else rows

    def unpack(self, roles: tuple[str, ...], rows: Array, shape: HeadShape) -> dict[str, Array]:
        """Take heads ``[heads, D, ...]`` out of rows ``[heads * D, ...]``; here: one role after the other."""
        heads = rows.reshape(-1, shape.head_dim, *rows.shape[1:])
        blocks, at = {}, 0
        for role in roles:
            blocks[role] = heads[at : at + _heads(role, shape)]
            at += _heads(role, shape)
        return blocks

    def pack(self, heads: list[Array], shape: HeadShape) -> Array:
        """Put heads ``[heads, D, ...]`` into rows: the inverse of ``unpack``."""
        joined = concatenate(heads)
        return joined.reshape(-1, *joined.shape[2:])


def concatenate(parts: list[Array], axis: int = 0) -> Array:
    """Join arrays or tensors along an axis; one alone is given back as it is."""
    if len(parts) == 1:
        return parts[0]
    from numpy import concatenate, ndarray

    if isinstance(parts[0], ndarray):
        return concatenate(parts, axis)
    from torch import cat

    return cat(parts, axis)


def _heads(role: str, shape: HeadShape) -> int:
    return shape.heads if role.startswith("q") else shape.kv_heads


def _is_matrix(roles: tuple[str, ...]) -> bool:
    return roles[0] in ("q", "k", "v", "o")
