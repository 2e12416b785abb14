"""A whole training: text, student, teacher and loop put together."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PrinterCallback,
    TrainingArguments,
)

import patches  # noqa: F401 - registers the windowed checkpoints
from eval.parallel import Peers
from eval.progress import Reporter
from recipes.errors import Interrupted
from recipes.schema import UptrainPart
from recipes.uptrain.adapters import add_adapters
from recipes.uptrain.batches import PackedBatches, own_rows
from recipes.uptrain.callbacks import ShowProgress, log_to_tensorboard, stop_on_sigint
from recipes.uptrain.checkpoints import KeepProgress, load_trained, newest_checkpoint, read_state
from recipes.uptrain.heldout import MeasureHeldout, set_aside
from recipes.uptrain.history import tell
from recipes.uptrain.layers import choose_layers, compared_layers
from recipes.uptrain.mixtures import Source
from recipes.uptrain.packing import Row, check_apart
from recipes.uptrain.sharding import gather_trained
from recipes.uptrain.sources import open_sources
from recipes.uptrain.teachers import Pair, make_teacher, save_teacher
from recipes.uptrain.trainer import DistillationTrainer, training_arguments

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
        The trained model with its adapters, in float32, and what was done, as JSON; its ``log`` is that of
        ``log.json``.

    Raises:
        RecipeError: text that cannot be read or is empty, a teacher with another vocabulary, or documents
            that a model does not keep apart.
        Interrupted: stopped by SIGINT, after a checkpoint was written.
    """
    peers = peers or Peers()
    tokenizer = AutoTokenizer.from_pretrained(student)
    pair = Pair(teacher, student, *map(AutoConfig.from_pretrained, (teacher, student)))
    pair.check_vocabulary()
    compared = compared_layers(part, pair.converted_config, pair.source_config)
    layers = choose_layers(part.lora.layers, pair.converted_config, pair.source_config)
    arguments = training_arguments(part, output)
    heldout, sources = set_aside(part, open_sources(part.data, tokenizer), tokenizer)
    asked = _all_batches(part, sources, tokenizer, arguments, heldout)
    lessons = save_teacher(part, pair, asked, output.with_name(LESSONS), arguments, reporter)
    # Here, so that adapters begin alike whatever teacher was loaded before.
    torch.manual_seed(part.seed)
    model = _load_student(student, part, layers)
    if part.packing == "apart":
        check_apart(cast(PreTrainedModel, model.get_base_model()), torch.device("cpu"))
    batches = _own_batches(part, sources, tokenizer, arguments)
    trainer = DistillationTrainer(
        model=model,
        args=arguments,
        train_dataset=batches,
        part=part,
        teacher=make_teacher(part, pair, model, compared, arguments, lessons),
        compared=compared,
    )
    keeper, measure = _watch(trainer, part, heldout, output, reporter, peers)
    found = peers.from_main(lambda: newest_checkpoint(output)) if resume else None
    last = None if found is None else Path(found)
    if last is not None:
        keeper.load(last)
    if last is not None and _is_done(last, part, measure):
        _load_done(trainer, model, last)
        reporter.line(f"uptrain: ended after step {trainer.state.global_step}, in an earlier run")
    else:
        if last is not None and trainer.is_fsdp_enabled:
            load_trained(model, last)
        _run(trainer, part, last, output, reporter, peers)
        if trainer.is_fsdp_enabled:
            trained = gather_trained(model)
            # The sharded model cannot be merged; the main process, which will, builds a whole one.
            if peers.main:
                model = _load_student(student, part, layers)
                model.load_state_dict(trained, strict=False)
                if trainer.state.best_global_step:
                    load_trained(model, output / f"checkpoint-{trainer.state.best_global_step}")
    return model, tell(part, teacher, trainer.state, keeper.wall_s, arguments.device)


def _watch(
    trainer: DistillationTrainer,
    part: UptrainPart,
    heldout: Sequence[Row],
    output: Path,
    reporter: Reporter,
    peers: Peers,
) -> tuple[KeepProgress, MeasureHeldout | None]:
    """Give the trainer what keeps, measures and logs, in the order in which it is called."""
    trainer.remove_callback(PrinterCallback)
    if part.tensorboard and peers.main:
        trainer.add_callback(log_to_tensorboard(output / "tensorboard"))
    keeper = KeepProgress(cast(PackedBatches, trainer.train_dataset))
    trainer.add_callback(keeper)
    measure = None if part.heldout is None else MeasureHeldout(part, heldout, trainer, reporter)
    if measure is not None:
        trainer.add_callback(measure)
    return keeper, measure


def _run(
    trainer: DistillationTrainer,
    part: UptrainPart,
    last: Path | None,
    output: Path,
    reporter: Reporter,
    peers: Peers,
) -> None:
    """Train to the end, from the checkpoint ``last`` on if there is one.

    Raises:
        Interrupted: stopped by SIGINT, after a checkpoint was written.
    """
    with reporter.step("uptrain", part.steps, lines=False) as tick, stop_on_sigint(trainer, peers) as stop:
        trainer.add_callback(ShowProgress(reporter, tick, part))
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    if peers.main:
        trainer.state.save_to_json(str(output / "log.json"))
    if stop.requested:
        raise Interrupted(f"uptraining stopped after step {trainer.state.global_step} of {part.steps}")


def _load_student(student: Path, part: UptrainPart, layers: list[int]) -> PeftModel:
    converted = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    return add_adapters(converted, part.lora, layers)


def _own_batches(
    part: UptrainPart, sources: Sequence[Source], tokenizer: Any, arguments: TrainingArguments
) -> PackedBatches:
    return PackedBatches(part, sources, tokenizer, arguments.world_size, arguments.process_index)


def _all_batches(
    part: UptrainPart,
    sources: Sequence[Source],
    tokenizer: Any,
    arguments: TrainingArguments,
    heldout: Sequence[Row],
) -> Iterator[Row]:
    """Every batch that this process will measure or train on."""
    for row in own_rows(heldout, arguments.process_index, arguments.world_size):
        yield {name: value[None] for name, value in row.items()}
    yield from islice(_own_batches(part, sources, tokenizer, arguments), part.steps * part.accumulate)


def _is_done(checkpoint: Path, part: UptrainPart, measure: MeasureHeldout | None) -> bool:
    """Whether a run ended with a checkpoint and was killed before the next stage."""
    state = read_state(checkpoint)
    return state.global_step >= part.steps or (measure is not None and measure.ended(state))


def _load_done(trainer: DistillationTrainer, model: PeftModel, checkpoint: Path) -> None:
    trainer.state = state = read_state(checkpoint)
    if state.best_global_step:
        checkpoint = checkpoint.with_name(f"checkpoint-{state.best_global_step}")
    load_trained(model, checkpoint)
