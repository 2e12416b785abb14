"""A whole training: text, student, teacher and loop put together."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerState

import patches  # noqa: F401 - registers the windowed checkpoints
from eval.progress import Reporter
from recipes.errors import Interrupted
from recipes.schema import UptrainPart
from recipes.schema.data import describe
from recipes.uptrain.adapters import add_adapters
from recipes.uptrain.batches import PackedBatches
from recipes.uptrain.callbacks import ShowProgress, log_to_tensorboard, stop_on_sigint
from recipes.uptrain.card import software
from recipes.uptrain.checkpoints import KeepProgress, newest_checkpoint
from recipes.uptrain.heldout import MeasureHeldout, ended_early, set_aside
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
        The trained model with its adapters, in float32, and what was done, as JSON; its ``log`` is that of
        ``log.json``.

    Raises:
        RecipeError: text that cannot be read or is empty, or a teacher with another vocabulary.
        Interrupted: stopped by SIGINT, after a checkpoint was written.
    """
    torch.manual_seed(part.seed)
    tokenizer = AutoTokenizer.from_pretrained(student)
    arguments = training_arguments(part, output)
    heldout, sources = set_aside(part, open_sources(part.data, tokenizer), tokenizer)
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
    if part.tensorboard and arguments.process_index == 0:
        trainer.add_callback(log_to_tensorboard(output / "tensorboard"))
    keeper = KeepProgress(batches)
    trainer.add_callback(keeper)
    last = newest_checkpoint(output) if resume else None
    if last is not None:
        keeper.load(Path(last))
    if part.heldout is not None:
        trainer.add_callback(measure := MeasureHeldout(part, heldout, trainer, reporter))
        # Read only now: the Trainer's own check wants an evaluation of its own beside it.
        trainer.args.load_best_model_at_end = part.heldout.keep_best
        reached = (
            None if last is None else TrainerState.load_from_json(str(Path(last) / "trainer_state.json"))
        )
        if reached is not None and ended_early(measure, reached):
            # Nothing is left to do but to load it.
            trainer.args.max_steps = reached.global_step
    with reporter.step("uptrain", part.steps) as tick:
        trainer.add_callback(ShowProgress(reporter, tick, part))
        with stop_on_sigint(trainer) as stop:
            trainer.train(resume_from_checkpoint=last)
    trainer.state.save_to_json(str(output / "log.json"))
    if stop.requested:
        raise Interrupted(f"uptraining stopped after step {trainer.state.global_step} of {part.steps}")
    return model, _history(part, teacher, trainer, keeper.wall_s)


def _history(part: UptrainPart, teacher: Path, trainer: DistillationTrainer, wall_s: float) -> dict[str, Any]:
    state = trainer.state
    ends: dict[str, float] = {}
    for first in ("kl", "heldout_kl"):
        logged = [entry for entry in state.log_history if first in entry]
        for name in LOSSES:
            key = first.removesuffix("kl") + name
            for when, entry in zip(("first", "last"), (logged[:1], logged[-1:]), strict=True):
                ends |= {f"{key}_{when}": one[key] for one in entry if key in one}
    best = {"best_step": state.best_global_step} if state.best_global_step else {}
    cuda = trainer.args.device.type == "cuda"
    return {
        "teacher": teacher.name,
        "data": describe(part.data),
        "steps": state.global_step,
        **best,
        "tokens": int(state.num_input_tokens_seen),
        **ends,
        "wall_s": round(wall_s, 1),
        "device": torch.cuda.get_device_name() if cuda else str(trainer.args.device),
        "software": software(),
        "recipe": part.model_dump(mode="json"),
        "log": state.log_history,
    }
