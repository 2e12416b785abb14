"""Who says what the student should have said: the teacher that a recipe asks for."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor
from transformers import TrainingArguments

from eval.progress import Reporter
from recipes.errors import RecipeError
from recipes.launch import is_sharded
from recipes.schema import UptrainPart
from recipes.schema.teacher import SavedTeacher, SeparateTeacher
from recipes.stages import fingerprint
from recipes.uptrain.packing import check_apart
from recipes.uptrain.passes import Reading
from recipes.uptrain.saved_teacher import Lessons, RememberedTeacher, save_lessons
from recipes.uptrain.separate_teacher import LoadedTeacher, load_source
from recipes.uptrain.shared_teacher import StudentAsTeacher


class Teacher(Protocol):
    """Says what the student should say."""

    def teach(self, batch: dict[str, Tensor]) -> Reading:
        """What the student should say to a batch of rows; no gradient goes to it."""


@dataclass(frozen=True)
class Pair:
    """The source and what it was converted to: folders, and configs as transformers reads them."""

    source: Path
    converted: Path
    source_config: Any
    converted_config: Any

    def check_vocabulary(self) -> None:
        """See that both speak of the same tokens.

        Raises:
            RecipeError: they do not.
        """
        theirs, ours = self.source_config.vocab_size, self.converted_config.vocab_size
        if ours != theirs:
            raise RecipeError(
                f"the teacher's vocabulary has {theirs} tokens, the student's {ours}; KL needs one"
            )


def save_teacher(
    part: UptrainPart,
    pair: Pair,
    batches: Iterable[dict[str, Tensor]],
    folder: Path,
    arguments: TrainingArguments,
    reporter: Reporter,
) -> Lessons | None:
    """Write down what the teacher says, if the recipe wants that, before the student is in memory.

    Args:
        part: The recipe's training.
        pair: Source and converted checkpoint.
        batches: All that this process will train and measure on, rows ``[B, T]``.
        folder: Where to.
        arguments: The training as the ``Trainer`` takes it.
        reporter: Where progress goes.

    Returns:
        What it said; None where the recipe wants another teacher.

    Raises:
        RecipeError: ``top_k`` is not below the vocabulary.
    """
    said = part.teacher
    if not isinstance(said, SavedTeacher):
        return None
    vocabulary = pair.source_config.vocab_size
    if said.top_k >= vocabulary:
        raise RecipeError(f"teacher.top_k={said.top_k} must be below the vocabulary of {vocabulary} tokens")
    state = arguments.distributed_state
    settings = {"source": fingerprint(pair.source), "temperature": part.temperature} | said.model_dump()
    lessons = Lessons(folder, settings, arguments.process_index)
    held_out = part.heldout.rows if part.heldout is not None else 0
    with reporter.step("teacher", part.steps * part.accumulate + held_out) as tick:
        save_lessons(
            lessons,
            lambda: LoadedTeacher(_load(part, said, pair.source, arguments.device)),
            batches,
            arguments.device,
            said.top_k,
            part.temperature,
            tick,
        )
    if state is not None:
        state.wait_for_everyone()
    lessons.refresh()
    return lessons


def make_teacher(
    part: UptrainPart,
    pair: Pair,
    model: PeftModel,
    compared: dict[int, float],
    arguments: TrainingArguments,
    lessons: Lessons | None,
) -> Teacher | None:
    """The teacher that a recipe asks for; None when no loss does.

    Args:
        part: The recipe's training.
        pair: Source and converted checkpoint.
        model: The student with its adapters.
        compared: Layers whose attention is compared.
        arguments: The training as the ``Trainer`` takes it.
        lessons: What the teacher has said, if it was saved.

    Raises:
        RecipeError: the teacher cannot be had here.
    """
    if not (part.kl_weight or part.attention_weight):
        return None
    if lessons is not None:
        return RememberedTeacher(lessons)
    said, sharded = part.teacher, is_sharded()
    if said.kind == "shared":
        if sharded:
            raise RecipeError(
                "a shared teacher needs the student whole, not sharded by FSDP; say kind: separate"
            )
        return StudentAsTeacher(
            model.to(arguments.device), pair.source, pair.source_config, pair.converted, compared
        )
    if sharded and (said.quantization, said.offload) != ("none", "none"):
        raise RecipeError(
            "a teacher that FSDP shards is neither quantized nor offloaded by itself; say quantization: none "
            "and offload: none"
        )
    # One that is sharded goes to the device in parts.
    device = torch.device("cpu") if sharded else arguments.device
    return LoadedTeacher(_load(part, said, pair.source, device), compared)


def _load(part: UptrainPart, said: SeparateTeacher | SavedTeacher, source: Path, device: torch.device) -> Any:
    model = load_source(said, source, device)
    if part.packing == "apart":
        check_apart(model, device)
    return model
