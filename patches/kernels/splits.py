"""How the columns of a cache are split among programs, and how the splits become one softmax again."""

from __future__ import annotations

import torch
from torch import Tensor

from patches.kernels.language import jit, padded, tl

SPLIT_COLUMNS = 128
"""A split with fewer columns than these costs more than it helps."""
MAX_SPLITS = 64


@jit()
def _merge_kernel(  # type: ignore[no-untyped-def]
    parts, lse, sink_logits, output, merged_lse, heads,
    GROUP: tl.constexpr, DIM: tl.constexpr, SPLITS: tl.constexpr, TILE_S: tl.constexpr, TILE_D: tl.constexpr,
):  # fmt: skip
    """The splits of one query head of one row under one softmax: ``output`` ``[B, H, D]``, ``merged_lse``."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    s = tl.arange(0, TILE_S)
    d = tl.arange(0, TILE_D)
    place = ((row * (heads // GROUP) + head // GROUP) * SPLITS + s) * GROUP + head % GROUP
    part = tl.load(lse + place, mask=s < SPLITS, other=float("-inf"))
    most = tl.max(part, 0)
    if sink_logits is not None:
        logit = tl.load(sink_logits + head).to(tl.float32) * 1.4426950408889634
        most = tl.maximum(most, logit)
    # A row that sees nothing has no largest score, and gets zeros.
    most = tl.where(most == float("-inf"), 0.0, most)
    weights = tl.exp2(part - most)
    total = tl.sum(weights, 0)
    if sink_logits is not None:
        total += tl.exp2(logit - most)
    real = (s[:, None] < SPLITS) & (d[None, :] < DIM)
    values = tl.load(parts + place[:, None] * DIM + d[None, :], mask=real, other=0.0)
    merged = tl.sum(values * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    at = output + (row * heads + head) * DIM + d
    tl.store(at, merged.to(output.dtype.element_ty), mask=d < DIM)
    if merged_lse is not None:
        tl.store(merged_lse + row * heads + head, (most + tl.log2(total)) * 0.6931471805599453)


def choose_splits(programs: int, columns: int, device: torch.device) -> int:
    """How many splits fill the device: a power of two, two programs per processor, none of them too short.

    Args:
        programs: ``B * K``, programs of one split each.
        columns: ``N``, at most.
        device: Where they run.
    """
    processors = 1
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    wanted = min(2 * processors // programs, columns // SPLIT_COLUMNS, MAX_SPLITS)
    return 1 << max(wanted, 1).bit_length() - 1


def merge_splits(
    parts: Tensor, lse: Tensor, output: Tensor, merged_lse: Tensor | None, sink_logits: Tensor | None = None
) -> None:
    """Put the splits of every query under one softmax.

    Args:
        parts: ``[B, K, splits, G, D]`` float32.
        lse: ``[B, K, splits, G]`` float32, base 2.
        output: ``[B, H, 1, D]``, to be filled; zeros where no split has seen a token.
        merged_lse: ``[B, H, 1]`` float32, to be filled with natural logarithms, or None.
        sink_logits: ``[H]``, one more logit per head in the denominator, or None.
    """
    batch, kv_heads, splits, group, dim = parts.shape
    _merge_kernel[(batch, kv_heads * group)](
        parts, lse, sink_logits, output, merged_lse, kv_heads * group,
        GROUP=group, DIM=dim, SPLITS=splits, TILE_S=padded(splits, 1), TILE_D=padded(dim),
        num_warps=4 if splits * dim > 1024 else 1,
    )  # fmt: skip
