"""What every launch of a kernel needs of the tensors that it is given."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def dense(tensor: Tensor) -> Tensor:
    """Rows whose elements lie beside each other, which the kernels count on; no copy where they do."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
