"""Watching one layer at work: what its projections read, what its heads give, what it adds to the stream."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convert.calibration.decoder import Call, first_tensor


@dataclass(frozen=True)
class Spots:
    """Where to look inside a layer, as names of its submodules.

    Args:
        attention: The attention module; weights that replace its own are named below it.
        keys: The projection that makes keys, ``Linear`` or fused; its input is what q, k and v read.
        output: The output projection; its input is the heads' output side by side.
        added: The module whose output joins the residual stream: the output projection, or a norm after it.
        scale: What the stream multiplies it by.
    """

    attention: str
    keys: str
    output: str
    added: str
    scale: float = 1.0


@dataclass
class Seen:
    """What passed in one run: ``[B, T, ...]`` each."""

    inputs: Tensor | None = None
    heads: Tensor | None = None
    output: Tensor | None = None
    added: Tensor | None = None


class _Enough(Exception):
    """Leaves a layer once its attention is done."""


def run_whole(
    layer: nn.Module, spots: Spots, weights: Mapping[str, Tensor], hidden: Tensor, call: Call
) -> tuple[Tensor, Seen]:
    """Run a layer.

    Args:
        layer: A loaded layer.
        spots: Where to look.
        weights: Attention tensors that take the place of the layer's own, by their names below its attention.
        hidden: ``[B, T, E]``.
        call: How the decoder calls it.

    Returns:
        The layer's output ``[B, T, E]`` and what was seen.
    """
    with _watching(layer, spots) as seen:
        output = _run(layer, spots, weights, hidden, call)
    return first_tensor(output), seen


def run_attention(
    layer: nn.Module, spots: Spots, weights: Mapping[str, Tensor], hidden: Tensor, call: Call
) -> Seen:
    """Run a layer only as far as its attention; arguments as in ``run_whole``."""
    with _watching(layer, spots, stop=True) as seen:
        try:
            _run(layer, spots, weights, hidden, call)
        except _Enough:
            return seen
    raise ValueError(f"the layer never called {spots.added}")


def _run(layer: nn.Module, spots: Spots, weights: Mapping[str, Tensor], hidden: Tensor, call: Call) -> Any:
    own = {f"{spots.attention}.{name}": tensor for name, tensor in weights.items()}
    return torch.func.functional_call(layer, own, (hidden, *call.args), dict(call.kwargs), strict=False)


@contextmanager
def _watching(layer: nn.Module, spots: Spots, stop: bool = False) -> Iterator[Seen]:
    seen = Seen()

    def read_inputs(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.inputs = args[0]

    def read_output(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen.heads, seen.output = args[0], output

    def read_added(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen.added = output
        if stop:
            raise _Enough

    handles = [
        layer.get_submodule(spots.keys).register_forward_pre_hook(read_inputs),
        layer.get_submodule(spots.output).register_forward_hook(read_output),
        layer.get_submodule(spots.added).register_forward_hook(read_added),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
