"""Triton where it is installed; where it is not, the names that a file of kernels needs to be imported."""

from collections.abc import Callable
from typing import Any

# In a try statement, because transformers demands every other import of a checkpoint's code to be installed.
try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None


def jit(**options: Any) -> Callable[[Any], Any]:
    """``triton.jit(**options)``; without Triton, a kernel that is a plain function and cannot be launched."""
    return (lambda kernel: kernel) if triton is None else triton.jit(**options)


def missing() -> str | None:
    """Why Triton kernels cannot run here at all, or None."""
    return "triton is not installed (pip install triton)" if triton is None else None


def padded(size: int, least: int = 16) -> int:
    """The power of two that holds ``size``, as block shapes must be; ``least`` is what ``tl.dot`` takes."""
    return max(least, 1 << max(size - 1, 0).bit_length())
