"""Triton, in the one form that transformers' scan of a checkpoint's imports does not take for a demand."""

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("the kernels need triton, which is not installed") from error

__all__ = ["tl", "triton"]
