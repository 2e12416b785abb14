"""Keys or values that have a shape, a dtype and a device, and numbers that only attention of ours can get."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from patches.policy import PolicyError


class Shell(Tensor):
    """``[B, K, N, D]``. An operation that would need the numbers raises instead of making or missing some."""

    @classmethod
    def shaped(cls, shape: Sequence[int], like: Tensor) -> Self:
        """An empty one with the dtype and the device of ``like``."""
        shell: Self = Tensor._make_wrapper_subclass(cls, shape, dtype=like.dtype, device=like.device)
        return shell

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Refuse.

        Raises:
            PolicyError: always.
        """
        raise PolicyError(
            f"{func} was asked to read a cache that only attention of Headroom can read; leave the model's "
            "attention implementation as it was when the cache was made"
        )

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({list(self.shape)}, dtype={self.dtype}, device={self.device})"
