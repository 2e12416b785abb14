"""Tensors out of weight files and into them: the part of writing that needs torch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from convert.errors import ConvertError
from convert.weights.copying import read_exactly
from convert.weights.dtypes import FLOATS
from convert.weights.header import TensorEntry


def torch_dtype(dtype: str) -> torch.dtype:
    """Translate the safetensors name of a floating type."""
    found: torch.dtype = getattr(torch, FLOATS[dtype])
    return found


def load_tensor(source: int, entry: TensorEntry) -> Tensor:
    """Read a whole tensor in its own dtype.

    Args:
        source: Descriptor of its file.
        entry: Where it is.

    Returns:
        A tensor of the entry's shape.

    Raises:
        ConvertError: the file ends early.
    """
    return load_elements(source, entry, 0, entry.nbytes).reshape(entry.shape)


def load_elements(source: int, entry: TensorEntry, start: int, nbytes: int) -> Tensor:
    """Read some elements of a tensor, flat: ``nbytes`` bytes from byte ``start`` of the tensor."""
    dtype = torch_dtype(entry.dtype)
    if nbytes == 0:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(read_exactly(source, entry.offset + start, nbytes), dtype=dtype)


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


def view_bytes(tensor: Tensor) -> memoryview:
    """Give a tensor's bytes in row order, without a copy if it is contiguous."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
