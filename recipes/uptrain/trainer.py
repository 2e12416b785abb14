"""The loop of ``transformers.Trainer`` with losses that mix what a teacher says with the usual one."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments

from recipes.schema import UptrainPart
from recipes.uptrain.distillation import AttentionOutputs, attention_distance, distillation_losses
from recipes.uptrain.packing import model_inputs

LOSSES = ("kl", "ce", "attention")


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
        seen = model_inputs(inputs)
        outputs, reference = model(**seen, use_cache=False), None
        if self.teacher is not None:
            with torch.no_grad():
                reference = self.teacher(**seen, use_cache=False).logits
        kl, ce = distillation_losses(outputs.logits, reference if part.kl_weight else None, inputs["labels"])
        attention = kl.new_zeros(())
        if self.watched is not None:
            ours, theirs = (watch.take() for watch in self.watched)
            attention = attention_distance(ours, theirs, inputs["attention_mask"])
        for name, value in zip(LOSSES, (kl, ce, attention), strict=True):
            self._sums[name] += value.item()
        self._passes += 1
        loss = part.kl_weight * kl + part.ce_weight * ce + part.attention_weight * attention
        return (loss, outputs) if return_outputs else loss

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This process's batches, as the data makes them.

        The loader has a generator of its own: what it draws from the usual one when a run begins would give
        dropout other numbers in a resumed run.
        """
        data = cast(Any, self.train_dataset)
        pin = self.args.dataloader_pin_memory
        return DataLoader(data, batch_size=None, generator=torch.Generator(), pin_memory=pin)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the single losses, averaged since the last line, beside what ``Trainer`` logs."""
        if "loss" in logs and self._passes:
            logs |= {name: round(total / self._passes, 4) for name, total in self._sums.items()}
            self._sums, self._passes = dict.fromkeys(LOSSES, 0.0), 0
        super().log(logs, *args, **kwargs)


def training_arguments(part: UptrainPart, output: Path) -> TrainingArguments:
    """A recipe's training as the ``Trainer`` takes it.

    Args:
        part: The recipe's training.
        output: Where its checkpoints go.
    """
    return TrainingArguments(
        output_dir=str(output),
        max_steps=part.steps,
        # An element of the training's rows is a whole batch.
        per_device_train_batch_size=1,
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
        # The text goes on by itself, without reading again what was read.
        ignore_data_skip=True,
        include_num_input_tokens_seen="non_padding",
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
