"""Which tokens attend to a token, layer by layer: change it for one attention module alone and compare."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def attention_modules(model: nn.Module, layers: int) -> list[nn.Module]:
    """The attention module of every layer, in order; empty where transformers' names do not tell them."""
    found = {
        getattr(module, "layer_idx", None): module
        for module in model.modules()
        if type(module).__name__.endswith("Attention")
    }
    return [found[index] for index in range(layers)] if set(found) == set(range(layers)) else []


@torch.inference_mode()
def who_sees(
    model: nn.Module, modules: Sequence[nn.Module], ids: Tensor, positions: Sequence[int]
) -> dict[int, Tensor]:
    """Find the tokens whose attention output depends on a token, in each layer by itself.

    The input of every attention module is turned around at one position, and its output put back to what it
    was: so no layer hears of what the layers before it saw. One pass for each position, and one unchanged.

    Args:
        modules: Of the layers, in order.
        ids: ``[1, T]``.
        positions: Tokens to change.

    Returns:
        For each position ``[len(modules), T]`` bool.

    Holds: exactly the mask of a windowed and of a dense model (tests/eval/test_reach.py).
    """
    clean: list[Tensor] = []
    _pass(model, modules, ids, lambda _index, output: clean.append(output.clone()))
    seen = {}
    for position in positions:
        changed: list[Tensor] = []

        def compare(index: int, output: Tensor, changed: list[Tensor] = changed) -> None:
            changed.append((output != clean[index]).any(-1)[0].cpu())
            output.copy_(clean[index])

        _pass(model, modules, ids, compare, position)
        seen[position] = torch.stack(changed)
    return seen


def _pass(
    model: Any, modules: Sequence[nn.Module], ids: Tensor, read: Any, position: int | None = None
) -> None:
    """Run the model once; ``read`` gets the index and the output ``[1, T, E]`` of every attention module."""

    def turn(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        hidden[:, position] *= -1
        if args:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}

    def look(index: int, _module: nn.Module, _args: Any, output: Any) -> None:
        read(index, output[0] if isinstance(output, tuple) else output)

    handles = [module.register_forward_hook(partial(look, index)) for index, module in enumerate(modules)]
    if position is not None:
        handles += [module.register_forward_pre_hook(turn, with_kwargs=True) for module in modules]
    try:
        model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
