"""From tensors to launches of the window + sink kernels, forward and backward."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from patches.kernels.backward_keys import key_gradient_kernel, sink_gradient_kernel
from patches.kernels.backward_queries import query_gradient_kernel
from patches.kernels.forward import attend_kernel
from patches.kernels.language import padded
from patches.kernels.tensors import on_device_of
from patches.kernels.tiles import INTERPRETED, Tile, Tiles, choose, sink_block

LOG2E = math.log2(math.e)
STRETCHES = 64
"""At most this many partial sums of the sinks' gradients: enough programs to fill a GPU, little to add up."""


@dataclass(frozen=True)
class Geometry:
    """Which columns of the keys are what, and how products become scores.

    Attributes:
        sinks: Leading columns that are the sinks, positions ``[0, sinks)``.
        skipped: Columns after them that hold nothing. The rest end with the queries' own tokens.
        window: ``W``, the query's own token counted.
        first: Position of the first query.
        scale: Factor on the products, above 0.
        softcap: Scores become ``softcap * tanh(score / softcap)``; 0 leaves them.
    """

    sinks: int
    skipped: int
    window: int
    first: int
    scale: float
    softcap: float

    def factors(self) -> dict[str, float]:
        """What turns products into scores of base 2: ``factor``, and ``cap`` where scores are capped."""
        if self.softcap:
            return {"factor": self.scale / self.softcap, "cap": self.softcap * LOG2E}
        return {"factor": self.scale * LOG2E, "cap": 1.0}


def forward(
    query: Tensor, key: Tensor, value: Tensor, sink_query: Tensor | None, sink_logits: Tensor | None,
    geometry: Geometry,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attend.

    Args:
        query: ``[B, H, T, D]``, dense in its last dimension, as every tensor here.
        key: ``[B, K, N, D]``.
        value: the same.
        sink_query: as ``query``, or None.
        sink_logits: ``[H]`` float32, or None.
        geometry: What the columns are.

    Returns:
        Output ``[B, H, T, D]``, in memory ``[B, T, H, D]``, and natural log-sum-exp ``[B, H, T]`` float32.
    """
    batch, heads, tokens, dim = query.shape
    tile = _tiles(query).forward
    output = empty_output(query)
    lse = query.new_empty(batch, heads, tokens, dtype=torch.float32)
    turned = query if sink_query is None else sink_query
    with on_device_of(query):
        attend_kernel[(-(-tokens // tile.queries), heads, batch)](
            query, turned, key, value, lse if sink_logits is None else sink_logits, output, lse,
            *_strides(query, turned, key, value, output),
            tokens, key.shape[2], geometry.sinks, geometry.skipped, geometry.window, geometry.first,
            heads // key.shape[1], dim, **geometry.factors(),
            BLOCK_Q=tile.queries, BLOCK_K=tile.keys, BLOCK_S=sink_block(geometry.sinks, tile.keys),
            TURNED=sink_query is not None, LOGITS=sink_logits is not None, **_common(query, geometry, tile),
        )  # fmt: skip
    return output, lse


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, sink_query: Tensor | None, output: Tensor,
    lse: Tensor, geometry: Geometry,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:  # fmt: skip
    """The gradients of a forward pass; no sum depends on the order in which programs end.

    Args:
        grad: ``[B, H, T, D]``, the gradient of ``output``.
        query: as the forward got it, and so on.
        key: the same.
        value: the same.
        sink_query: the same.
        output: what the forward gave.
        lse: the same.
        geometry: as the forward got it.

    Returns:
        The gradients of ``query``, ``key``, ``value`` and ``sink_query`` (None without one), and the dot
        products of ``grad`` and ``output``, ``[B, H, T]`` float32.
    """
    delta = torch.empty_like(lse)
    d_query, d_key, d_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    d_turned = d_query if sink_query is None else torch.empty_like(sink_query)
    turned = query if sink_query is None else sink_query
    with on_device_of(query):
        _query_gradient(grad, query, turned, key, value, output, lse, delta, d_query, d_turned, geometry)
        _key_gradient(grad, query, key, value, lse, delta, d_key, d_value, geometry)
        if geometry.sinks:
            _sink_gradient(grad, turned, key, value, lse, delta, d_key, d_value, geometry)
    if geometry.skipped:
        nothing = slice(geometry.sinks, geometry.sinks + geometry.skipped)
        d_key[:, :, nothing], d_value[:, :, nothing] = 0, 0
    return d_query, d_key, d_value, None if sink_query is None else d_turned, delta


def empty_output(query: Tensor) -> Tensor:
    """``[B, H, T, D]`` that lies in memory as the layer after attention reads it."""
    batch, heads, tokens, dim = query.shape
    return query.new_empty(batch, tokens, heads, dim).transpose(1, 2)


def _query_gradient(
    grad: Tensor, query: Tensor, turned: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor,
    delta: Tensor, d_query: Tensor, d_turned: Tensor, geometry: Geometry,
) -> None:  # fmt: skip
    batch, heads, tokens, dim = query.shape
    tile = _tiles(query).d_query
    query_gradient_kernel[(-(-tokens // tile.queries), heads, batch)](
        query, turned, key, value, grad, output, lse, delta, d_query, d_turned,
        *_strides(query, turned, key, value, grad, output, d_query, d_turned),
        tokens, key.shape[2], geometry.sinks, geometry.skipped, geometry.window, geometry.first,
        heads // key.shape[1], dim, geometry.scale, **geometry.factors(),
        BLOCK_Q=tile.queries, BLOCK_K=tile.keys, BLOCK_S=sink_block(geometry.sinks, tile.keys),
        TURNED=turned is not query, **_common(query, geometry, tile),
    )  # fmt: skip


def _key_gradient(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, lse: Tensor, delta: Tensor, d_key: Tensor,
    d_value: Tensor, geometry: Geometry,
) -> None:  # fmt: skip
    batch, heads, tokens, dim = query.shape
    kv_heads, columns = key.shape[1:3]
    tile = _tiles(query).d_key
    begin = geometry.sinks + geometry.skipped
    if begin < columns:
        key_gradient_kernel[(-(-(columns - begin) // tile.keys), kv_heads, batch)](
            query, key, value, grad, lse, delta, d_key, d_value,
            *_strides(query, key, value, grad, d_key, d_value),
            tokens, columns, begin, geometry.window, heads // kv_heads, dim, geometry.scale,
            **geometry.factors(), BLOCK_Q=tile.queries, BLOCK_K=tile.keys, **_common(query, geometry, tile),
        )  # fmt: skip


def _sink_gradient(
    grad: Tensor, turned: Tensor, key: Tensor, value: Tensor, lse: Tensor, delta: Tensor, d_key: Tensor,
    d_value: Tensor, geometry: Geometry,
) -> None:  # fmt: skip
    batch, heads, tokens, dim = turned.shape
    kv_heads, sinks = key.shape[1], geometry.sinks
    tile = _tiles(turned).d_sink
    block = sink_block(sinks, tile.keys)
    # A stretch is whole blocks, or a query would count in two of them.
    stretch = -(-tokens // STRETCHES)
    stretch = -(-max(stretch, 256) // tile.queries) * tile.queries
    parts = -(-tokens // stretch)
    partial = turned.new_empty(2, parts, batch, kv_heads, sinks, dim, dtype=torch.float32)
    sink_gradient_kernel[(parts * -(-sinks // block), kv_heads, batch)](
        turned, key, value, grad, lse, delta, partial[0], partial[1],
        *_strides(turned, key, value, grad),
        tokens, sinks, geometry.first, stretch, heads // kv_heads, dim, geometry.scale,
        **geometry.factors(), BLOCK_Q=tile.queries, BLOCK_S=block, **_common(turned, geometry, tile),
    )  # fmt: skip
    d_key[:, :, :sinks], d_value[:, :, :sinks] = partial.sum(1)


def _strides(*tensors: Tensor) -> list[int]:
    """Batch, head and row strides of each; numbers of a row follow each other."""
    return [stride for tensor in tensors for stride in tensor.stride()[:3]]


def _tiles(query: Tensor) -> Tiles:
    if not query.is_cuda:
        return INTERPRETED
    return choose(query.shape[-1], query.element_size(), torch.cuda.get_device_capability(query.device)[0])


def _common(query: Tensor, geometry: Geometry, tile: Tile) -> dict[str, Any]:
    """The constants that every kernel takes."""
    head = padded(query.shape[-1])
    # Three products of tf32 parts are as good as float32; one is what the user allowed for matrix products.
    exact = torch.get_float32_matmul_precision() == "highest"
    return {
        "HEAD": head,
        "PADDED": head != query.shape[-1],
        "CAPPED": bool(geometry.softcap),
        "PRECISION": "tf32x3" if exact else "tf32",
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
