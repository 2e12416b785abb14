"""Tensors that depend on numbers alone, kept for the next call."""

from collections.abc import Callable, Hashable
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode


def kept(build: Callable[..., Tensor], *numbers: Hashable) -> Tensor:
    """What ``build`` makes of ``numbers``: one of the last few if it was asked for before.

    A call that is traced, or runs on tensors that hold nothing, gets its own and leaves none behind.
    """
    if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
        return build(*numbers)
    return _kept(build, *numbers)


@lru_cache(maxsize=8)
def _kept(build: Callable[..., Tensor], *numbers: Hashable) -> Tensor:
    # A tensor first built under inference mode could never be saved for a backward pass.
    with torch.inference_mode(False):
        return build(*numbers)
