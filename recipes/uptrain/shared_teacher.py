"""A teacher that is the student itself, without what was changed of the source."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.func import functional_call

from eval.memory import CacheShape, cache_shape
from patches.config import WindowedConfigMixin
from recipes.errors import RecipeError
from recipes.uptrain.passes import Reader, Reading, attention_modules, model_inputs
from recipes.uptrain.weights import Weights, names_in_model

UNBOUNDED = 2**30
"""A window that no row is longer than."""

INSTEAD = "say teacher: {kind: separate}"


class StudentAsTeacher:
    """The student with its adapters off, its windows those of the source, and the source's weights put in.

    Weights that the conversion left as they were, which may be all of them, are in memory once. What is
    trained in full has its original beside it already (``modules_to_save`` of ``peft``).

    Holds: gives the logits of the source bit for bit where the attention backend does
    (tests/recipes/test_shared_teacher.py).
    """

    def __init__(
        self, model: PeftModel, source: Path, origin: Any, converted: Path, layers: dict[int, float]
    ):
        """Make the student able to be its teacher.

        Args:
            model: The student with its adapters, where it is trained.
            source: Folder of the source checkpoint.
            origin: Its config.
            converted: Folder that the student was loaded from.
            layers: Whose attention to hand on.

        Raises:
            RecipeError: the source is not the student with other weights.
        """
        self.model: Any = model
        self.reader = Reader(model, layers)
        self.config: Any = self.model.get_base_model().config
        self.shape = cache_shape(origin)
        said = getattr(origin, "attention_window", None) or {}
        self.positions, self.logits = said.get("positions", "absolute"), said.get("sink_logits", False)
        self.settings = self._settings(origin)
        self.beside = self._weights_beside(Weights(source), Weights(converted))

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that are held for the teacher alone."""
        return sum(tensor.nbytes for tensor in self.beside.values())

    @torch.no_grad()
    def teach(self, batch: dict[str, Tensor]) -> Reading:
        """What the source says to a batch of rows."""
        training = self.model.training
        self.model.eval()
        try:
            with self.model.disable_adapter(), self._as_the_source():
                return self.reader.read(self._forward, model_inputs(batch))
        finally:
            self.model.train(training)

    def _forward(self, **inputs: Any) -> Any:
        return functional_call(self.model, self.beside, (), inputs) if self.beside else self.model(**inputs)

    @contextmanager
    def _as_the_source(self) -> Iterator[None]:
        kept = [(place, name, getattr(place, name)) for place, name, _ in self.settings]
        for place, name, value in self.settings:
            setattr(place, name, value)
        try:
            yield
        finally:
            for place, name, value in kept:
                setattr(place, name, value)

    def _settings(self, origin: Any) -> list[tuple[Any, str, Any]]:
        """What else than weights makes the student the source: ``(object, attribute, value)``."""
        shape, ours = self.shape, cache_shape(self.config)
        if shape.layers is None or ours.layers is None:
            raise RecipeError(f"a shared teacher: {shape.reason or ours.reason}; {INSTEAD}")
        modules: list[Any] = attention_modules(self.model.get_base_model())
        found: list[tuple[Any, str, Any]] = []
        for module, before, after in zip(modules, shape.kv_heads, ours.kv_heads, strict=True):
            if before == after:
                continue
            if not hasattr(module, "num_key_value_groups"):
                raise RecipeError(
                    f"a shared teacher: {type(module).__name__} has no groups of heads that could be put "
                    f"back; {INSTEAD}"
                )
            found.append((module, "num_key_value_groups", origin.num_attention_heads // before))
        windows = [layer.place.window for layer in shape.layers]
        logits = (getattr(self.config, "attention_window", None) or {}).get("sink_logits", False)
        if windows != [layer.place.window for layer in ours.layers] or logits != self.logits:
            found += self._windows(windows, ours, modules)
        return found

    def _windows(
        self, wanted: list[int | None], ours: CacheShape, modules: list[Any]
    ) -> list[tuple[Any, str, Any]]:
        sizes = sorted({size for size in wanted if size is not None})
        if isinstance(self.config, WindowedConfigMixin):
            entry = {
                "size": sizes[0] if sizes else 1,
                "sinks": max(layer.place.sinks for layer in self.shape.layers or ()),
                "positions": self.positions,
                "global_layers": [layer for layer, size in enumerate(wanted) if size is None],
                "sink_logits": self.logits,
            }
            return [(self.config, "attention_window", entry)]
        # The family's own windows: one size for all layers that slide, and these cannot be others.
        assert ours.layers is not None
        slides = [layer.place.window is not None for layer in ours.layers]
        reach = {size or UNBOUNDED for size, slide in zip(wanted, slides, strict=True) if slide}
        if len(reach) != 1:
            raise RecipeError(f"a shared teacher: the source's windows are not all of one size; {INSTEAD}")
        places = [self.config, *(module for module, slide in zip(modules, slides, strict=True) if slide)]
        return [
            (place, "sliding_window", *reach)
            for place in places
            if getattr(place, "sliding_window", None) is not None
        ]

    def _weights_beside(self, source: Weights, converted: Weights) -> dict[str, Tensor]:
        """The source's weights where the student's are others, by their names in the student."""
        parameters = {_plain(name): (name, value) for name, value in self.model.named_parameters()}
        unknown = [name for name in converted if name not in source]
        if unknown:
            raise RecipeError(f"a shared teacher: the source has no tensor {unknown[0]}; {INSTEAD}")
        places = names_in_model(source, parameters, self.model.get_base_model().base_model_prefix)
        beside = {}
        for name in source:
            if name in converted:
                before, after = source[name], converted[name]
                if before.shape == after.shape and torch.equal(before, after.to(before.dtype)):
                    continue
            elif name not in places:
                # Old checkpoints hold buffers, which a conversion may leave out.
                continue
            if name not in places or (name in converted and not _may_differ(name, before, after)):
                raise RecipeError(f"a shared teacher: {name} cannot be put back by name; {INSTEAD}")
            place, value = parameters[places[name]]
            beside[place] = source[name].to(value.device, value.dtype)
        return beside


def _may_differ(name: str, before: Tensor, after: Tensor) -> bool:
    """Whether a module takes both tensors in turn."""
    return before.shape == after.shape or name.split(".")[-2] in ("k_proj", "v_proj")


def _plain(name: str) -> str:
    """The name of a parameter without what ``peft`` puts into it; of trained ones none that a source has."""
    name = name.removeprefix("base_model.model.")
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")
