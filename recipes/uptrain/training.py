"""A whole training: text, student, teacher and loop put together."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PrinterCallback

import patches  # noqa: F401 - registers the windowed checkpoints
from eval.parallel import Peers
from eval.progress import Reporter
from recipes.errors import Interrupted, RecipeError
from recipes.schema import UptrainPart
from recipes.uptrain.adapters import add_adapters
from recipes.uptrain.callbacks import ShowProgress, stop_on_sigint
from recipes.uptrain.checkpoints import newest_checkpoint
from recipes.uptrain.layers import choose_layers, compared_layers
from recipes.uptrain.packing import PackedRows
from recipes.uptrain.sharding import gather_trained
from recipes.uptrain.sources import read_documents
from recipes.uptrain.teachers import Pair, make_teacher, save_teacher
from recipes.uptrain.trainer import LOSSES, DistillationTrainer, training_arguments

LESSONS = "teacher"
"""Folder beside the training's, for what a saved teacher says."""


def train(
    part: UptrainPart,
    teacher: Path,
    student: Path,
    output: Path,
    resume: bool,
    reporter: Reporter,
    peers: Peers | None = None,
) -> tuple[PeftModel, dict[str, Any]]:
    """Train adapters on a converted checkpoint.

    Args:
        part: The recipe's training.
        teacher: The source checkpoint.
        student: The converted checkpoint.
        output: Where checkpoints and ``log.json`` go.
        resume: Continue from the last checkpoint there, if any.
        reporter: Where progress goes.
        peers: The processes that train together: each takes its own rows of every step.

    Returns:
        The trained model with its adapters, in float32, and what was done, as JSON.

    Raises:
        RecipeError: text that cannot be read or is empty, or a teacher with another vocabulary.
        Interrupted: stopped by SIGINT, after a checkpoint was written.
    """
    peers = peers or Peers()
    tokenizer = AutoTokenizer.from_pretrained(student)
    rows = PackedRows(partial(read_documents, part.data, tokenizer), tokenizer, part.length)
    if next(iter(rows), None) is None:
        raise RecipeError(f"the training data of kind {part.data.kind!r} holds no text")
    pair = Pair(teacher, student, *map(AutoConfig.from_pretrained, (teacher, student)))
    pair.check_vocabulary()
    compared = compared_layers(part, pair.converted_config, pair.source_config)
    layers = choose_layers(part.lora.layers, pair.converted_config, pair.source_config)
    arguments = training_arguments(part, output)
    batches = DataLoader(rows, part.batch_size)
    lessons = save_teacher(part, pair, batches, output.with_name(LESSONS), arguments, reporter)
    # Here, so that adapters begin alike whatever teacher was loaded before.
    torch.manual_seed(part.seed)
    model = _load_student(student, part, layers)
    trainer = DistillationTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        part=part,
        teacher=make_teacher(part, pair, model, compared, arguments, lessons),
        compared=compared,
    )
    trainer.remove_callback(PrinterCallback)
    last = peers.from_main(lambda: newest_checkpoint(output)) if resume else None
    step_tokens = part.batch_size * part.accumulate * peers.size * part.length
    with reporter.step("uptrain", part.steps) as tick:
        progress = ShowProgress(reporter, tick, step_tokens)
        trainer.add_callback(progress)
        with stop_on_sigint(trainer, peers) as stop:
            trainer.train(resume_from_checkpoint=last)
    if peers.main:
        trainer.state.save_to_json(str(output / "log.json"))
    if stop.requested:
        raise Interrupted(f"uptraining stopped after step {trainer.state.global_step} of {part.steps}")
    if trainer.is_fsdp_enabled:
        trained = gather_trained(model)
        # The sharded model cannot be merged; the main process, which will, builds a whole one.
        if peers.main:
            model = _load_student(student, part, layers)
            model.load_state_dict(trained, strict=False)
    return model, _history(part, teacher, trainer, step_tokens)


def _load_student(student: Path, part: UptrainPart, layers: list[int]) -> PeftModel:
    converted = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    return add_adapters(converted, part.lora, layers)


def _history(
    part: UptrainPart, teacher: Path, trainer: DistillationTrainer, step_tokens: int
) -> dict[str, Any]:
    logged = [entry for entry in trainer.state.log_history if "kl" in entry]
    ends = {"first": logged[0], "last": logged[-1]} if logged else {}
    return {
        "teacher": teacher.name,
        "steps": trainer.state.global_step,
        "tokens": trainer.state.global_step * step_tokens,
        **{f"{name}_{when}": entry[name] for name in LOSSES for when, entry in ends.items()},
        "recipe": part.model_dump(mode="json"),
    }
