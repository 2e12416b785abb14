"""What a loss needs of a model's pass, taken out of it by hooks: predictions and outputs of attention."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from recipes.errors import RecipeError
from recipes.uptrain.distillation import Predictions, TopTokens


def model_inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a model reads of a batch of rows.

    Rows whose documents are apart go without a padding mask: transformers looks for positions that restart
    only where there is none, and their padding is a document of its own.
    """
    names = ("input_ids", "position_ids" if "position_ids" in batch else "attention_mask")
    return {name: batch[name] for name in names}


@dataclass(frozen=True)
class Reading:
    """What was read of one pass.

    Attributes:
        predictions: Of the next token, at every token.
        attention: ``[B, T, E]``, what the attention of every watched layer gave.
        outputs: What the model returned, with the logits of the last token alone where the others were not
            needed.
    """

    predictions: Predictions | TopTokens
    attention: list[Tensor] = field(default_factory=list)
    outputs: Any = None


class Reader:
    """Reads the passes of a model, without its logits where its head is the last thing that it does.

    Logits ``[B, T, V]`` are by far the largest tensor of a training; from the hidden states before the head a
    loss can make them piece by piece. A family that goes on to scale or cap its logits gives them whole.
    """

    def __init__(self, model: Any, layers: Collection[int] = ()):
        """Read a model.

        Args:
            model: A causal language model, perhaps with adapters.
            layers: Whose attention to watch.

        Raises:
            RecipeError: there are not as many modules of attention as layers.
        """
        self.model = model
        self.head: Any = model.get_output_embeddings()
        self.layers = sorted(layers)
        self._states: Tensor | None = None
        self._attention: dict[int, Tensor] = {}
        self._reading = self._defers = False
        self._head_is_last: bool | None = None
        self.head.register_forward_pre_hook(self._take_states)
        modules = attention_modules(model) if self.layers else []
        for layer in self.layers:
            modules[layer].register_forward_hook(partial(self._take_attention, layer))

    def read(self, forward: Callable[..., Any], inputs: dict[str, Tensor]) -> Reading:
        """One pass.

        Args:
            forward: The model, or what wraps it in a distributed run.
            inputs: What it takes.

        Holds: both ways give the same losses, families that change their logits are found out
        (tests/recipes/test_passes.py).
        """
        if self._head_is_last is None:
            self._head_is_last = self._probe(forward, inputs["input_ids"])
        outputs, states = self._run(forward, inputs, defer=self._head_is_last)
        predictions = (
            Predictions.of_logits(outputs.logits)
            if states is None
            else Predictions(states, self.head.weight.shape[0], self.head)
        )
        attention, self._attention = self._attention, {}
        return Reading(predictions, [attention[layer] for layer in self.layers], outputs)

    def _probe(self, forward: Callable[..., Any], tokens: Tensor) -> bool:
        """Whether the logits are what the head gives, seen in a pass of two tokens."""
        weight = getattr(self.head, "weight", None)
        # Where each process has a part of the head, it can be used only inside the model's own pass.
        if not isinstance(weight, Tensor) or weight.ndim != 2 or isinstance(weight.data, DTensor):
            return False
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            outputs, states = self._run(forward, {"input_ids": tokens[:1, :2]}, defer=True)
            same = torch.equal(self.head(states[:, -1:]).float(), outputs.logits.float())
        self.model.train(training)
        return same

    def _run(self, forward: Callable[..., Any], inputs: dict[str, Tensor], defer: bool) -> Any:
        """The pass, and the states before the head where the logits are deferred."""
        self._reading, self._defers = True, defer
        try:
            outputs = forward(**inputs, use_cache=False)
        finally:
            # Under gradient checkpointing layers run again in the backward pass, where nothing is read.
            self._reading = self._defers = False
        states, self._states = self._states, None
        return outputs, states

    def _take_states(self, _head: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        if not self._defers:
            return None
        self._states = args[0]
        return (args[0][:, -1:],)

    def _take_attention(
        self, layer: int, _module: nn.Module, _args: object, output: tuple[Tensor, object]
    ) -> None:
        if self._reading:
            self._attention[layer] = output[0]


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """The attention module of every layer, in order.

    Args:
        model: Of any family that Headroom converts; their attention classes are called so.

    Raises:
        RecipeError: there are not as many as layers.
    """
    found = [module for module in model.modules() if type(module).__name__.endswith("Attention")]
    layers: int = model.config.num_hidden_layers  # type: ignore[assignment, union-attr]
    if len(found) != layers:
        raise RecipeError(f"{type(model).__name__} has {len(found)} modules of attention for {layers} layers")
    return found
