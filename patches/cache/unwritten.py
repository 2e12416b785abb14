"""The token of a decode step that attention writes into the cache by the launch that reads it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from patches.cache.shell import Shell
from patches.kernels import language
from patches.kernels.write import write_token


@dataclass(frozen=True)
class Unwritten:
    """One token per row on its way into a layer.

    Attributes:
        stores: Keys and values of the layer that the query may see, the token's own column included, ``[B, K,
            N, D]``.
        token: Keys and values of the token, ``[B, K, 1, D]``.
        column: Where it goes, ``[1 or B]`` int64 on the device, or one column for all rows.
    """

    stores: tuple[Tensor, Tensor]
    token: tuple[Tensor, Tensor]
    column: Tensor | int

    def write(self) -> tuple[Tensor, Tensor]:
        """Write it, for attention that only reads; the layer's keys and values."""
        write(self.stores, self.token, self.column)
        return self.stores


class UnwrittenTokens(Shell):
    """Keys or values ``[B, K, N, D]`` of a layer whose newest token is not written yet."""

    unwritten: Unwritten

    def __new__(cls, unwritten: Unwritten) -> "UnwrittenTokens":
        shell = cls.shaped(unwritten.stores[0].shape, unwritten.token[0])
        shell.unwritten = unwritten
        return shell


def has_kernel(token: tuple[Tensor, Tensor]) -> bool:
    """Whether a kernel of ours may write the keys and values ``[B, K, 1, D]`` of a token.

    torch.compile sees the write and what made the token, and makes one kernel of those.
    """
    if torch.compiler.is_compiling() or language.missing() is not None:
        return False
    trained = torch.is_grad_enabled() and token[0].requires_grad
    return not trained and all(states.is_cuda and states.stride(-1) == 1 for states in token)


def write(stores: tuple[Tensor, Tensor], token: tuple[Tensor, Tensor], column: Tensor | int) -> None:
    """Write one token per row in place, by one launch of a kernel where there is one.

    Args:
        stores: Keys and values, ``[B, K, N, D]``.
        token: Likewise, ``[B, K, 1, D]``.
        column: ``[1 or B]`` int64 on the device, or one column for all rows.
    """
    if isinstance(column, Tensor) and has_kernel(token):
        write_token(stores, token, column)
    else:
        assign(stores, token, column)


def assign(stores: tuple[Tensor, Tensor], token: tuple[Tensor, Tensor], column: Tensor | int) -> None:
    """As ``write``, by operators of torch."""
    for store, new in zip(stores, token, strict=True):
        if isinstance(column, int):
            store[:, :, column : column + 1] = new.detach()
        elif column.shape[0] == 1:
            store.index_copy_(2, column, new.detach())
        else:
            store[torch.arange(len(store), device=store.device), :, column] = new.detach()[:, :, 0]
