"""The keys and values of one token per row, written into a cache by one launch."""

from __future__ import annotations

from torch import Tensor

from patches.kernels.language import jit, padded, tl
from patches.kernels.tensors import on_device_of


@jit()
def _write_kernel(  # type: ignore[no-untyped-def]
    key, value, new_key, new_value, index,
    key_b, key_n, key_h, value_b, value_n, value_h, new_key_b, new_key_h, new_value_b, new_value_h, index_b,
    DIM: tl.constexpr, TILE_D: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    slot = tl.load(index + row * index_b)
    d = tl.arange(0, TILE_D)
    fits = d < DIM
    k = tl.load(new_key + row * new_key_b + head * new_key_h + d, mask=fits)
    v = tl.load(new_value + row * new_value_b + head * new_value_h + d, mask=fits)
    tl.store(key + row * key_b + slot * key_n + head * key_h + d, k, mask=fits)
    tl.store(value + row * value_b + slot * value_n + head * value_h + d, v, mask=fits)


def write_token(stores: tuple[Tensor, Tensor], states: tuple[Tensor, Tensor], index: Tensor) -> None:
    """Write in place; whether ``index`` lies inside of the stores is not checked.

    Args:
        stores: Keys and values, ``[B, K, N, D]``, the last axis contiguous, any other strides.
        states: Keys and values of the token, ``[B, K, 1, D]``, likewise, in the dtype of the stores.
        index: Its column, ``[1]`` or ``[B]`` int64 on the device.

    Holds: equals an indexed assignment (tests/patches/test_decode.py).
    """
    key, value = stores
    new_key, new_value = states
    batch, heads, _, dim = key.shape
    with on_device_of(key):
        _write_kernel[(batch, heads)](
            key, value, new_key, new_value, index,
            key.stride(0), key.stride(2), key.stride(1), value.stride(0), value.stride(2), value.stride(1),
            *new_key.stride()[:2], *new_value.stride()[:2], 0 if index.shape[0] == 1 else index.stride(0),
            DIM=dim, TILE_D=padded(dim), num_warps=1,
        )  # fmt: skip
