"""What a GPU can hold, read and compute."""

from dataclasses import dataclass

from convert.budget.units import parse_bandwidth, parse_bytes, parse_flops
from convert.errors import ConvertError, unknown

RESERVE = 2**30
"""Bytes that a process holds beside weights, cache and activations: CUDA's context, kernels' workspaces."""


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: What it is called.
        memory: Bytes.
        bandwidth: Bytes per second, None where it was not given.
        flops: Dense bfloat16 operations per second, None where it was not given.
    """

    name: str
    memory: int
    bandwidth: float | None
    flops: float | None


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("rtx-4090", 24 * 2**30, 1.008e12, 165.2e12),
        Gpu("a10g", 24 * 2**30, 0.6e12, 70e12),
        Gpu("l40s", 48 * 2**30, 0.864e12, 362e12),
        Gpu("a100-40", 40 * 2**30, 1.555e12, 312e12),
        Gpu("a100-80", 80 * 2**30, 2.039e12, 312e12),
        Gpu("h100", 80 * 2**30, 3.35e12, 989e12),
        Gpu("h200", 141 * 10**9, 4.8e12, 989e12),
        Gpu("b200", 180 * 10**9, 8e12, 2250e12),
    )
}
"""The makers' data sheets: nominal memory, bandwidth, and dense bfloat16 operations."""


def read_gpu(text: str, bandwidth: str | None, flops: str | None) -> Gpu:
    """Read ``--gpu``, by name or by size, and what is said of its speed.

    Args:
        text: A name of ``GPUS`` or a size such as ``80GiB``.
        bandwidth: Such as ``3.35TB/s``; it goes before the data sheet.
        flops: Such as ``989TFLOP/s``; the same.

    Raises:
        ConvertError: a value cannot be read.
    """
    known = GPUS.get(text.lower())
    if known is None:
        if not text[:1].isdigit():
            raise unknown("gpu", text, [*GPUS, "a size such as 80GiB"])
        known = Gpu(text, parse_bytes("gpu", text), None, None)
    if known.memory <= RESERVE:
        raise ConvertError(f"gpu={text!r} is less than what a process holds by itself (1 GiB)")
    return Gpu(
        known.name,
        known.memory,
        known.bandwidth if bandwidth is None else parse_bandwidth("bandwidth", bandwidth),
        known.flops if flops is None else parse_flops("flops", flops),
    )
