"""Changes to one layer's heads that leave the model's output as it is (DESIGN.md, section 4)."""

from dataclasses import replace

import torch
from torch import Generator, Tensor

from convert.heads import AttentionHeads, Rotary


def permute_heads(heads: AttentionHeads, order: list[int]) -> AttentionHeads:
    """Put KV heads in another order, their query heads and output columns with them.

    Not free where query heads have slopes of their own (ALiBi).
    """
    queries_per_head = heads.q.shape[0] // heads.k.shape[0]
    queries = [queries_per_head * head + query for head in order for query in range(queries_per_head)]
    moved = {
        role: part[queries if role in ("q", "q_bias", "q_norm", "o") else order]
        for role, part in heads.parts().items()
        if role != "o_bias"
    }
    return replace(heads, **moved)


def turn_values(heads: AttentionHeads, generator: Generator) -> AttentionHeads:
    """Replace every head's ``v`` by ``M v`` and its outputs ``o`` by ``o M^-1``, ``M`` any invertible one."""
    matrices = _invertible(heads.v, heads.v.shape[1], generator)
    inverses = _by_query(torch.linalg.inv(matrices), heads)
    bias = None if heads.v_bias is None else _rows(matrices, heads.v_bias)
    return replace(heads, v=matrices @ heads.v, v_bias=bias, o=heads.o @ inverses)


def turn_keys(heads: AttentionHeads, rotary: Rotary, generator: Generator) -> AttentionHeads:
    """Replace every head's ``k`` by ``C k`` and its queries by ``C^-H q``.

    ``C`` is one complex number per rotary frequency and any invertible matrix on the other dimensions.
    Not free where a norm acts on keys.
    """
    matrices = _commuting(heads.k, rotary, generator)
    inverses = _by_query(torch.linalg.inv(matrices).mT, heads)
    return replace(
        heads,
        k=matrices @ heads.k,
        k_bias=None if heads.k_bias is None else _rows(matrices, heads.k_bias),
        q=inverses @ heads.q,
        q_bias=None if heads.q_bias is None else _rows(inverses, heads.q_bias),
    )


def _commuting(k: Tensor, rotary: Rotary, generator: Generator) -> Tensor:
    heads, dims = k.shape[0], k.shape[1]
    matrices = torch.zeros(heads, dims, dims, dtype=k.dtype)
    first = torch.arange(rotary.dims // 2)
    pairs = (2 * first, 2 * first + 1) if rotary.interleaved else (first, first + rotary.dims // 2)
    real, imaginary = torch.randn(2, heads, rotary.dims // 2, generator=generator, dtype=k.dtype)
    real = real.sign() + real
    matrices[:, pairs[0], pairs[0]] = matrices[:, pairs[1], pairs[1]] = real
    matrices[:, pairs[0], pairs[1]] = -imaginary
    matrices[:, pairs[1], pairs[0]] = imaginary
    matrices[:, rotary.dims :, rotary.dims :] = _invertible(k, dims - rotary.dims, generator)
    return matrices


def _invertible(like: Tensor, dims: int, generator: Generator) -> Tensor:
    noise = torch.randn(like.shape[0], dims, dims, generator=generator, dtype=like.dtype)
    return torch.eye(dims, dtype=like.dtype) + noise * (0.3 / max(dims, 1) ** 0.5)


def _by_query(matrices: Tensor, heads: AttentionHeads) -> Tensor:
    return matrices.repeat_interleave(heads.q.shape[0] // heads.k.shape[0], 0)


def _rows(matrices: Tensor, bias: Tensor) -> Tensor:
    return (matrices @ bias[..., None])[..., 0]
