"""A checkpoint's decoder of which only one layer is in memory, run by transformers' own classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convert.errors import ConvertError
from convert.weights.checkpoint import Weights


@dataclass(frozen=True)
class Call:
    """How the decoder calls one layer beside its hidden states: masks, positions, rotary tables."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Decoder:
    """The decoder of a checkpoint on one device, float32, its layers empty until each is loaded.

    Args:
        folder: The checkpoint.
        weights: Its weight files.
        layers: Path of the list of layers inside the base model, such as ``layers``.
        device: Where it runs.

    Raises:
        ConvertError: transformers cannot build the model.
    """

    def __init__(self, folder: Path, weights: Weights, layers: str, device: torch.device):
        from accelerate import init_empty_weights
        from transformers import AutoConfig, AutoModel
        from transformers.utils.logging import disable_progress_bar

        # Loading layer by layer would show one bar for each.
        disable_progress_bar()
        self.device = device
        self._weights = weights
        self._wraps: bool | None = None
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            # Buffers such as rotary frequencies are computed at once; parameters stay without memory.
            with init_empty_weights(include_buffers=False):
                self.model = AutoModel.from_config(config, dtype=torch.float32).eval()
        except (ValueError, KeyError, ImportError) as error:
            raise ConvertError(f"calibration cannot build this model: {error}") from error
        self.model.requires_grad_(False)
        self._path = layers
        self.layers: list[nn.Module] = list(self._holder())
        self._load(lambda name: not self._in_layers(name))
        for module in self.model.modules():
            _move_buffers(module, device)

    def embed(self, tokens: Tensor) -> tuple[Tensor, list[Call]]:
        """Run everything before the first layer.

        Args:
            tokens: ``[B, T]`` token ids.

        Returns:
            Hidden states ``[B, T, E]``, and how each layer is called.
        """
        if self._wraps is None:
            self._wraps = self._finds_tuples(tokens)
        recorders = [_Recorder(layer, self._wraps) for layer in self.layers]
        self._run(recorders, tokens)
        hidden = recorders[0].hidden
        if hidden is None:
            raise ValueError("the decoder never called its first layer")
        return hidden, [Call(recorder.args, recorder.kwargs) for recorder in recorders]

    def _finds_tuples(self, tokens: Tensor) -> bool:
        """Say whether a layer wraps its output in a tuple: the first one, run on what it is called with."""
        first = _Recorder(self.layers[0], wraps=False, stops=True)
        with suppress(_FirstLayerReached):
            self._run([first, *self.layers[1:]], tokens)
        with self.layer(0) as layer, torch.no_grad():
            return isinstance(layer(first.hidden, *first.args, **first.kwargs), tuple)

    def _run(self, layers: Sequence[nn.Module], tokens: Tensor) -> None:
        holder = self._holder()
        for index, layer in enumerate(layers):
            holder[index] = layer
        try:
            with torch.no_grad():
                self.model(input_ids=tokens.to(self.device), use_cache=False)
        finally:
            for index, layer in enumerate(self.layers):
                holder[index] = layer

    @contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        """Load one layer for as long as the block runs; its memory is freed afterwards."""
        prefix = f"{self._path}.{index}."
        self._load(lambda name: f".{prefix}" in f".{name}")
        layer = self.layers[index]
        try:
            yield layer
        finally:
            _empty(layer)

    def drop_embeddings(self) -> None:
        """Free everything outside the layers, once all tokens are embedded."""
        _empty(self.model)

    def _holder(self) -> nn.ModuleList:
        found = self.model.get_submodule(self._path)
        if not isinstance(found, nn.ModuleList):
            raise ValueError(f"{self._path} is not a list of layers")
        return found

    def _in_layers(self, name: str) -> bool:
        return f".{self._path}." in f".{name}"

    def _load(self, wanted: Any) -> None:
        """Load the tensors whose names are wanted through transformers' own renamings and conversions."""
        from safetensors import safe_open
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        state: dict[str, Any] = {}
        for file in self._weights.files:
            names = [entry.name for entry in file.entries if wanted(entry.name)]
            if names:
                with safe_open(file.path, framework="pt") as reader:
                    state |= {name: reader.get_tensor(name) for name in names}
        mapping: list[Any] = list(get_model_conversion_mapping(self.model))
        convert_and_load_state_dict_in_model(
            self.model,
            state,
            LoadStateDictConfig(dtype=torch.float32, weight_mapping=mapping, device_map={"": self.device}),
        )


class _FirstLayerReached(Exception):
    """Leaves the decoder before its layers."""


class _Recorder(nn.Module):
    """Stands in for a layer: remembers how it was called and hands the hidden states on."""

    def __init__(self, layer: nn.Module, wraps: bool, stops: bool = False):
        super().__init__()
        self.wraps, self.stops = wraps, stops
        # In a tuple, so that the layer does not become a submodule.
        self._layer = (layer,)
        self.hidden: Tensor | None = None
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_layer"][0], name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.hidden, self.args, self.kwargs = hidden_states, args, kwargs
        if self.stops:
            raise _FirstLayerReached
        return (hidden_states,) if self.wraps else hidden_states


def _empty(whole: nn.Module) -> None:
    for module in whole.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.to("meta"), requires_grad=False))


def _move_buffers(module: nn.Module, device: torch.device) -> None:
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, buffer.to(device))


def first_tensor(output: Any) -> Tensor:
    """Give the hidden states of a layer's output, which some families wrap in a tuple."""
    found = output[0] if isinstance(output, tuple) else output
    if not isinstance(found, Tensor):
        raise ValueError(f"a layer returned a {type(found).__name__}")
    return found
