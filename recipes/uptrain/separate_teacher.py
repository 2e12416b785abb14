"""A teacher that is a model of its own."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from accelerate import cpu_offload
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from recipes.schema.teacher import SavedTeacher, SeparateTeacher
from recipes.uptrain.eight_bit import require_bitsandbytes
from recipes.uptrain.passes import Reader, Reading, model_inputs


class LoadedTeacher:
    """The source, frozen, beside the student."""

    def __init__(self, model: Any, layers: Collection[int] = ()):
        """Ask a model.

        Args:
            model: The source, where it is to run.
            layers: Whose attention to hand on.
        """
        self.model = model
        self.reader = Reader(model, layers)

    @torch.no_grad()
    def teach(self, batch: dict[str, Tensor]) -> Reading:
        """What the source says to a batch of rows."""
        return self.reader.read(self.model, model_inputs(batch))


def load_source(said: SeparateTeacher | SavedTeacher, source: Path, device: torch.device) -> Any:
    """The source as a recipe wants it held, frozen.

    Args:
        said: The recipe's teacher.
        source: The source checkpoint.
        device: Where it computes.

    Raises:
        RecipeError: bitsandbytes is asked for and not there.
    """
    dtype: Any = said.dtype
    if dtype == "auto" and not torch.accelerator.is_available():
        # Most CPUs compute in 16 bits several times more slowly.
        dtype = torch.float32
    options: dict[str, Any] = {"dtype": dtype}
    if said.quantization == "8bit":
        require_bitsandbytes("teacher.quantization 8bit", "quantization: none")
        options |= {
            "quantization_config": BitsAndBytesConfig(load_in_8bit=True),
            "device_map": {"": device},
        }
    model = AutoModelForCausalLM.from_pretrained(source, **options).eval().requires_grad_(False)
    if said.quantization == "8bit":
        return model
    return cpu_offload(model, execution_device=device) if said.offload == "cpu" else model.to(device)
