"""A whole training: text, student, teacher and loop put together."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PrinterCallback

import patches  # noqa: F401 - registers the windowed checkpoints
from eval.progress import Reporter
from recipes.errors import Interrupted
from recipes.schema import UptrainPart
from recipes.uptrain.adapters import add_adapters
from recipes.uptrain.batches import PackedBatches
from recipes.uptrain.callbacks import ShowProgress, stop_on_sigint
from recipes.uptrain.checkpoints import KeepProgress, newest_checkpoint
from recipes.uptrain.layers import compared_layers
from recipes.uptrain.packing import check_apart
from recipes.uptrain.sources import open_sources
from recipes.uptrain.teachers import load_teacher
from recipes.uptrain.trainer import LOSSES, DistillationTrainer, training_arguments


def train(
    part: UptrainPart, teacher: Path, student: Path, output: Path, resume: bool, reporter: Reporter
) -> tuple[PeftModel, dict[str, Any]]:
    """Train adapters on a converted checkpoint.

    Args:
        part: The recipe's training.
        teacher: The source checkpoint.
        student: The converted checkpoint.
        output: Where checkpoints and ``log.json`` go.
        resume: Continue from the last checkpoint there, if any.
        reporter: Where progress goes.

    Returns:
        The trained model with its adapters, in float32, and what was done, as JSON.

    Raises:
        RecipeError: text that cannot be read or is empty, or a teacher with another vocabulary.
        Interrupted: stopped by SIGINT, after a checkpoint was written.
    """
    torch.manual_seed(part.seed)
    tokenizer = AutoTokenizer.from_pretrained(student)
    arguments = training_arguments(part, output)
    sources = open_sources(part.data, tokenizer)
    batches = PackedBatches(part, sources, tokenizer, arguments.world_size, arguments.process_index)
    converted = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    if part.packing == "apart":
        check_apart(converted)
    compared = compared_layers(part, converted.config, AutoConfig.from_pretrained(teacher))
    model = add_adapters(converted, part.lora)
    trainer = DistillationTrainer(
        model=model,
        args=arguments,
        train_dataset=batches,
        part=part,
        teacher=load_teacher(part, teacher, arguments.device, converted.config.vocab_size, compared),
        compared=compared,
    )
    trainer.remove_callback(PrinterCallback)
    keeper = KeepProgress(batches)
    trainer.add_callback(keeper)
    last = newest_checkpoint(output) if resume else None
    if last is not None:
        keeper.load(Path(last))
    with reporter.step("uptrain", part.steps) as tick:
        trainer.add_callback(ShowProgress(reporter, tick, part))
        with stop_on_sigint(trainer) as stop:
            trainer.train(resume_from_checkpoint=last)
    trainer.state.save_to_json(str(output / "log.json"))
    if stop.requested:
        raise Interrupted(f"uptraining stopped after step {trainer.state.global_step} of {part.steps}")
    return model, _history(part, teacher, trainer)


def _history(part: UptrainPart, teacher: Path, trainer: DistillationTrainer) -> dict[str, Any]:
    logged = [entry for entry in trainer.state.log_history if "kl" in entry]
    ends = {"first": logged[0], "last": logged[-1]} if logged else {}
    return {
        "teacher": teacher.name,
        "steps": trainer.state.global_step,
        "tokens": trainer.state.num_input_tokens_seen,
        **{f"{name}_{when}": entry[name] for name in LOSSES for when, entry in ends.items()},
        "recipe": part.model_dump(mode="json"),
    }
