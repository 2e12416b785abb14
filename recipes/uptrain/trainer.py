"""The loop of ``transformers.Trainer`` with losses that mix what a teacher says with the usual one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from recipes.schema import UptrainPart
from recipes.uptrain.batches import own_rows
from recipes.uptrain.distillation import Predictions, attention_distance, distillation_losses
from recipes.uptrain.eight_bit import require_bitsandbytes
from recipes.uptrain.packing import Row
from recipes.uptrain.passes import Reader, model_inputs
from recipes.uptrain.separate_teacher import LoadedTeacher
from recipes.uptrain.sharding import enable_sharding, shard_teacher
from recipes.uptrain.teachers import Teacher

LOSSES = ("kl", "ce", "attention")
OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
"""The names of transformers for those of a recipe."""


class DistillationTrainer(Trainer):
    """A ``Trainer`` whose loss mixes what a teacher says with the usual one."""

    def __init__(
        self,
        *args: Any,
        part: UptrainPart,
        teacher: Teacher | None,
        compared: dict[int, float],
        **kwargs: Any,
    ):
        """As ``Trainer``.

        Args:
            args: Passed on.
            part: The recipe's training, for its weights.
            teacher: Says what the student should say; None when nothing is learned from it.
            compared: Layers whose attention is compared with the teacher's, and their weights.
            kwargs: Passed on.
        """
        super().__init__(*args, **kwargs)
        self.part = part
        self.teacher = teacher
        self.weights = list(compared.values())
        self.reader = Reader(self.model, compared)
        if self.is_fsdp_enabled and isinstance(teacher, LoadedTeacher):
            shard_teacher(self.accelerator, teacher.model)
        # Ours is a mean over the tokens of a pass, so the Trainer must average over the passes of a step.
        self.model_accepts_loss_kwargs = False
        self._sums = dict.fromkeys(LOSSES, 0.0)
        self._passes = 0

    def create_accelerator_and_postprocess(self) -> None:
        """As ``Trainer``, and sharded wherever the launcher asks for it."""
        super().create_accelerator_and_postprocess()
        self.is_fsdp_enabled = enable_sharding(self.accelerator)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """As ``Trainer``, but nothing for a sharded model, which got its weights before it was sharded.

        What accelerate loads into adapters that are sharded is not what it saved.
        """
        if not self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        """As ``Trainer``, but nothing for a sharded model, whose best weights are loaded when it is whole."""
        if not self.is_fsdp_enabled:
            super()._load_best_model()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mixed loss of one pass, a mean over its tokens."""
        part = self.part
        with self.accelerator.autocast():
            lesson = None if self.teacher is None else self.teacher.teach(inputs)
            reading = self.reader.read(model, model_inputs(inputs))
            kl, ce = distillation_losses(
                cast(Predictions, reading.predictions),
                lesson.predictions if lesson is not None and part.kl_weight else None,
                inputs["labels"],
                part.kl_top_k,
                part.temperature,
            )
        attention = kl.new_zeros(())
        if lesson is not None and self.weights:
            attention = attention_distance(
                reading.attention, lesson.attention, inputs["attention_mask"], self.weights
            )
        for name, value in zip(LOSSES, (kl, ce, attention), strict=True):
            self._sums[name] += value.item()
        self._passes += 1
        loss = part.kl_weight * kl + part.ce_weight * ce + part.attention_weight * attention
        return (loss, reading.outputs) if return_outputs else loss

    def measure(self, rows: Sequence[Row]) -> dict[str, float]:
        """The single losses of rows that are not trained on, as means over rows, without dropout.

        Args:
            rows: ``[T]`` each, of which this process measures its own.
        """
        rows = own_rows(rows, self.args.process_index, self.args.world_size)
        kept, self._sums, self._passes = (self._sums, self._passes), dict.fromkeys(LOSSES, 0.0), 0
        model = cast(Any, self.model_wrapped)
        model.eval()
        with torch.no_grad():
            for row in rows:
                batch = {name: value[None].to(self.args.device) for name, value in row.items()}
                self.compute_loss(model, batch)
        model.train()
        means = self._means()
        self._sums, self._passes = kept
        return means

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This process's batches, as the data makes them.

        The loader has a generator of its own: what it draws from the usual one when a run begins would give
        dropout other numbers in a resumed run.
        """
        data = cast(Any, self.train_dataset)
        pin = self.args.dataloader_pin_memory
        return DataLoader(data, batch_size=None, generator=torch.Generator(), pin_memory=pin)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the single losses, means over passes and processes since the last line, beside the usual."""
        if "loss" in logs and self._passes:
            logs |= {name: round(mean, 4) for name, mean in self._means().items()}
            self._sums, self._passes = dict.fromkeys(LOSSES, 0.0), 0
        super().log(logs, *args, **kwargs)

    def _means(self) -> dict[str, float]:
        """Of the single losses, over passes and processes."""
        sums = torch.tensor(list(self._sums.values()), dtype=torch.float32, device=self.args.device)
        means = self.accelerator.reduce(sums, reduction="mean") / self._passes
        return dict(zip(LOSSES, means.tolist(), strict=True))


def training_arguments(part: UptrainPart, output: Path) -> TrainingArguments:
    """A recipe's training as the ``Trainer`` takes it.

    Args:
        part: The recipe's training.
        output: Where its checkpoints go.

    Raises:
        RecipeError: the optimizer needs bitsandbytes, which is not there.
    """
    if part.optimizer != "adamw":
        require_bitsandbytes(f"optimizer {part.optimizer}", "optimizer: adamw")
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=part.steps,
        # An element of the training's rows is a whole batch.
        per_device_train_batch_size=1,
        gradient_accumulation_steps=part.accumulate,
        learning_rate=part.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(part.warmup_steps, part.steps - 1),
        weight_decay=part.weight_decay,
        optim=OPTIMIZERS[part.optimizer],
        gradient_checkpointing=part.gradient_checkpointing,
        bf16=part.bf16,
        logging_steps=part.log_every,
        save_steps=part.save_every,
        # One more where the best one stays, so that there is always a whole one before the newest.
        save_total_limit=3 if part.heldout is not None and part.heldout.keep_best else 2,
        seed=part.seed,
        # The text goes on by itself, without reading again what was read.
        ignore_data_skip=True,
        include_num_input_tokens_seen="non_padding",
        report_to=[],
        # Said, because several processes and bfloat16 are refused by default where there is no device.
        use_cpu=not torch.accelerator.is_available(),
        # Every adapter has a part in every pass, whichever losses are on.
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    # A process has one device. The Trainer would split batches among all that it sees (nn.DataParallel), in
    # threads whose passes no hook tells apart.
    if arguments.device.type == "cuda":
        arguments._n_gpu = 1
    return arguments
