"""Tensors that change their dtype: the part of writing that needs torch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from convert.errors import ConvertError
from convert.weights.dtypes import FLOATS


def torch_dtype(dtype: str) -> torch.dtype:
    """Translate the safetensors name of a floating type."""
    found: torch.dtype = getattr(torch, FLOATS[dtype])
    return found


def cast_bytes(content: bytearray | memoryview, before: str, after: str, name: str) -> memoryview:
    """Convert the elements of a tensor, as many as there are, from one safetensors type to another.

    Raises:
        ConvertError: a finite number does not fit the wanted type.
    """
    with alone():
        elements = torch.frombuffer(content, dtype=torch_dtype(before))
        return cast(elements, after, name).view(torch.uint8).numpy().data


def cast(tensor: Tensor, dtype: str, name: str) -> Tensor:
    """Convert a tensor and refuse when numbers become infinite.

    Args:
        tensor: Any floating tensor.
        dtype: Safetensors name of the wanted type.
        name: Name of the tensor, for the error.

    Returns:
        The tensor in the wanted type; itself if nothing changes.

    Raises:
        ConvertError: a finite number does not fit the wanted type.
    """
    result = tensor.to(torch_dtype(dtype))
    if dtype == "F16" and bool((result.isinf() & tensor.isfinite()).any()):
        largest = float(tensor[tensor.isfinite()].abs().max())
        raise ConvertError(
            f"tensor {name!r} holds {largest:.3g}, beyond float16's 65504; use --dtype bfloat16 or float32"
        )
    return result


@contextmanager
def alone() -> Iterator[None]:
    """Compute in this thread only, as long as other threads copy.

    torch's own threads wait for each other by spinning; with every core busy that made sums of a few
    megabytes fifty times slower than one thread does them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
