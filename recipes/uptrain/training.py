"""The training itself: adapters by ``peft``, the loop by ``transformers.Trainer``."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

import patches  # noqa: F401 - registers the windowed checkpoints
from eval.progress import Reporter
from recipes.errors import Interrupted, RecipeError
from recipes.schema import LoraPart, UptrainPart
from recipes.uptrain.callbacks import ShowProgress, stop_on_sigint
from recipes.uptrain.distillation import AttentionOutputs, attention_distance, distillation_losses
from recipes.uptrain.packing import PackedRows
from recipes.uptrain.sources import read_documents

SAVED = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
"""Files of a checkpoint; one that lacks any was cut off while it was written."""
LOSSES = ("kl", "ce", "attention")


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
    rows = PackedRows(partial(read_documents, part.data, tokenizer), tokenizer, part.length)
    if next(iter(rows), None) is None:
        raise RecipeError(f"the training data of kind {part.data.kind!r} holds no text")
    model = add_adapters(AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32), part.lora)
    trainer = DistillationTrainer(
        model=model,
        args=_arguments(part, output),
        train_dataset=rows,
        part=part,
        teacher=_load_teacher(part, teacher, model),
    )
    trainer.remove_callback(PrinterCallback)
    last = newest_checkpoint(output) if resume else None
    with reporter.step("uptrain", part.steps) as tick:
        progress = ShowProgress(reporter, tick, part.batch_size * part.accumulate * part.length)
        trainer.add_callback(progress)
        with stop_on_sigint(trainer) as stop:
            trainer.train(resume_from_checkpoint=last)
    trainer.state.save_to_json(str(output / "log.json"))
    if stop.requested:
        raise Interrupted(f"uptraining stopped after step {trainer.state.global_step} of {part.steps}")
    return model, _history(part, teacher, trainer)


def newest_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of a training that was written to its end; None when there is none.

    Args:
        folder: Of the training.
    """
    whole = [
        found for found in folder.glob("checkpoint-*") if all((found / name).is_file() for name in SAVED)
    ]
    return str(max(whole, key=lambda found: int(found.name.rpartition("-")[2]))) if whole else None


def add_adapters(model: PreTrainedModel, lora: LoraPart) -> PeftModel:
    """LoRA on the target projections; the ``full`` ones are copied and trained whole."""
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        modules_to_save=list(lora.full) or None,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    return adapted


class DistillationTrainer(Trainer):
    """A ``Trainer`` whose loss mixes what a teacher says with the usual one."""

    def __init__(self, *args: Any, part: UptrainPart, teacher: PreTrainedModel | None, **kwargs: Any):
        """As ``Trainer``.

        Args:
            args: Passed on.
            part: The recipe's training, for its weights.
            teacher: Frozen, with the student's vocabulary; None when nothing is learned from it.
            kwargs: Passed on.
        """
        super().__init__(*args, **kwargs)
        self.part = part
        self.teacher = None if teacher is None else cast(Any, teacher).to(self.args.device)
        self.watched: tuple[AttentionOutputs, AttentionOutputs] | None = None
        if part.attention_weight and teacher is not None:
            self.watched = AttentionOutputs(cast(Any, self.model)), AttentionOutputs(teacher)
        # Ours is a mean over the tokens of a pass, so the Trainer must average over the passes of a step.
        self.model_accepts_loss_kwargs = False
        self._sums = dict.fromkeys(LOSSES, 0.0)
        self._passes = 0

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mixed loss of one pass, a mean over its tokens."""
        part = self.part
        seen = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        outputs, reference = model(**seen, use_cache=False), None
        if self.teacher is not None:
            with torch.no_grad():
                reference = self.teacher(**seen, use_cache=False).logits
        kl, ce = distillation_losses(outputs.logits, reference if part.kl_weight else None, inputs["labels"])
        attention = kl.new_zeros(())
        if self.watched is not None:
            ours, theirs = (watch.take() for watch in self.watched)
            attention = attention_distance(ours, theirs, seen["attention_mask"])
        for name, value in zip(LOSSES, (kl, ce, attention), strict=True):
            self._sums[name] += value.item()
        self._passes += 1
        loss = part.kl_weight * kl + part.ce_weight * ce + part.attention_weight * attention
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the single losses, averaged since the last line, beside what ``Trainer`` logs."""
        if "loss" in logs and self._passes:
            logs |= {name: round(total / self._passes, 4) for name, total in self._sums.items()}
            self._sums, self._passes = dict.fromkeys(LOSSES, 0.0), 0
        super().log(logs, *args, **kwargs)


def _arguments(part: UptrainPart, output: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(output),
        max_steps=part.steps,
        per_device_train_batch_size=part.batch_size,
        gradient_accumulation_steps=part.accumulate,
        learning_rate=part.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(part.warmup_steps, part.steps - 1),
        weight_decay=part.weight_decay,
        gradient_checkpointing=part.gradient_checkpointing,
        bf16=part.bf16,
        logging_steps=part.log_every,
        save_steps=part.save_every,
        save_total_limit=2,
        seed=part.seed,
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _load_teacher(part: UptrainPart, teacher: Path, student: PeftModel) -> PreTrainedModel | None:
    if not (part.kl_weight or part.attention_weight):
        return None
    model = AutoModelForCausalLM.from_pretrained(teacher).eval().requires_grad_(False)
    ours, theirs = cast(Any, student.get_base_model()).config.vocab_size, model.config.vocab_size
    if ours != theirs:
        raise RecipeError(f"the teacher's vocabulary has {theirs} tokens, the student's {ours}; KL needs one")
    assert isinstance(model, PreTrainedModel)
    return model


def _history(part: UptrainPart, teacher: Path, trainer: "DistillationTrainer") -> dict[str, Any]:
    logged = [entry for entry in trainer.state.log_history if "kl" in entry]
    ends = {"first": logged[0], "last": logged[-1]} if logged else {}
    return {
        "teacher": teacher.name,
        "steps": trainer.state.global_step,
        "tokens": trainer.state.global_step * part.batch_size * part.accumulate * part.length,
        **{f"{name}_{when}": entry[name] for name in LOSSES for when, entry in ends.items()},
        "recipe": part.model_dump(mode="json"),
    }
