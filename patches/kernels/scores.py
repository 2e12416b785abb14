"""What the forward and the backward kernels share: loading rows, scores in base 2, the mask and its edges."""

from __future__ import annotations

from patches.kernels.language import jit, tl

# Without Triton this file is imported and never run.
LOG2E = None if tl is None else tl.constexpr(1.4426950408889634)
LN2 = None if tl is None else tl.constexpr(0.6931471805599453)


@jit()
def row_pointers(base, stride, begin, BLOCK: tl.constexpr, HEAD: tl.constexpr):
    """``[BLOCK, HEAD]`` pointers to rows ``begin`` and after; offsets of long sequences need 64 bits."""
    rows = tl.arange(0, BLOCK)
    return base + tl.cast(begin, tl.int64) * stride + (rows * stride)[:, None] + tl.arange(0, HEAD)[None, :]


@jit()
def load_rows(
    base, stride, begin, end, dim,
    BLOCK: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr, BOUNDED: tl.constexpr,
):  # fmt: skip
    """Rows ``[begin, begin + BLOCK)``; zeros from row ``end`` (BOUNDED), dimension ``dim`` (PADDED)."""
    pointers = row_pointers(base, stride, begin, BLOCK, HEAD)
    real_rows = (begin + tl.arange(0, BLOCK) < end)[:, None]
    real_dims = (tl.arange(0, HEAD) < dim)[None, :]
    if BOUNDED and PADDED:
        loaded = tl.load(pointers, mask=real_rows & real_dims, other=0.0)
    elif BOUNDED:
        loaded = tl.load(pointers, mask=real_rows, other=0.0)
    elif PADDED:
        loaded = tl.load(pointers, mask=real_dims, other=0.0)
    else:
        loaded = tl.load(pointers)
    return loaded


@jit()
def store_rows(
    base, stride, begin, end, dim, rows,
    BLOCK: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    """Write rows ``[begin, min(begin + BLOCK, end))`` in the type of ``base``."""
    pointers = row_pointers(base, stride, begin, BLOCK, HEAD)
    real = (begin + tl.arange(0, BLOCK) < end)[:, None] & (tl.arange(0, HEAD) < dim)[None, :]
    tl.store(pointers, rows.to(base.dtype.element_ty), mask=real)


@jit()
def capped(products, factor, cap):
    """``cap * tanh(factor * products)``; exp2 overflows to infinity, which is a tanh of 1."""
    return cap * (1.0 - 2.0 / (1.0 + tl.exp2(products * (2.0 * factor * LOG2E))))


@jit()
def visible(own, column, end, window):
    """Whether the query at column ``own`` sees ``column``, for columns before ``end``."""
    return (column <= own) & (own - column < window) & (column < end)


@jit()
def stretches(oldest, window, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr):
    """Where queries with own columns ``[oldest, oldest + BLOCK_Q)`` meet which blocks of keys.

    From ``low`` on at the left edge of some window, from ``inside`` on in all of them and in the past of all,
    from ``diagonal`` on in the past of some.
    """
    low = tl.maximum(oldest - window + 1, 0) // BLOCK_K * BLOCK_K
    diagonal = tl.maximum((oldest + 1) // BLOCK_K * BLOCK_K, low)
    inside = tl.cdiv(tl.maximum(oldest + BLOCK_Q - window, 0), BLOCK_K) * BLOCK_K
    inside = tl.minimum(tl.maximum(inside, low), diagonal)
    return low, inside, diagonal
