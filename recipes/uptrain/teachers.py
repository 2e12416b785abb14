"""Who says what the student should have said."""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from recipes.errors import RecipeError
from recipes.schema import UptrainPart
from recipes.uptrain.passes import Reader, Reading, model_inputs


class Teacher(Protocol):
    """Says what the student should say."""

    def teach(self, batch: dict[str, Tensor]) -> Reading:
        """What the student should say to a batch of rows; no gradient goes to it."""


class SeparateTeacher:
    """A model of its own, beside the student."""

    def __init__(self, model: Any, layers: dict[int, float]):
        """Ask a model.

        Args:
            model: The source, frozen, where it is to run.
            layers: Whose attention is compared.
        """
        self.model = model
        self.reader = Reader(model, layers)

    @torch.no_grad()
    def teach(self, batch: dict[str, Tensor]) -> Reading:
        """As ``Teacher``."""
        return self.reader.read(self.model, model_inputs(batch))


def load_teacher(
    part: UptrainPart, source: Path, device: torch.device, vocabulary: int, layers: dict[int, float]
) -> Teacher | None:
    """The teacher that a recipe asks for; None when no loss does.

    Args:
        part: The recipe's training.
        source: The source checkpoint.
        device: Where the student is trained.
        vocabulary: The student's.
        layers: Whose attention is compared.

    Raises:
        RecipeError: teacher and student have different vocabularies.
    """
    if not (part.kl_weight or part.attention_weight):
        return None
    model = AutoModelForCausalLM.from_pretrained(source).eval().requires_grad_(False)
    theirs = model.config.vocab_size
    if vocabulary != theirs:
        raise RecipeError(
            f"the teacher's vocabulary has {theirs} tokens, the student's {vocabulary}; KL needs one"
        )
    return SeparateTeacher(model.to(device), layers)
