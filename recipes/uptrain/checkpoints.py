"""The checkpoints of a training that can be gone on with."""

import json
import time
from pathlib import Path
from typing import Any

from peft import (
    PeftModel,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from torch.distributed.checkpoint import load as load_sharded
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from recipes.uptrain.batches import PackedBatches

PROGRESS = "progress.json"
"""Written last, all at once: what the ``Trainer`` does not keep, such as how far the text was read."""
SHARDS = "pytorch_model_fsdp_0"
"""Folder of what was trained, where each process wrote its part of it."""
SAVED = (
    ("adapter_model.safetensors", f"{SHARDS}/.metadata"),
    ("optimizer*",),
    ("scheduler.pt",),
    ("rng_state*.pth",),
    ("trainer_state.json",),
    (PROGRESS,),
)
"""Files of a checkpoint, one of each, numbered by several processes; where any is missing, the checkpoint was
cut off while it was made."""


def newest_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of a training that was written to its end; None when there is none.

    Args:
        folder: Of the training.
    """
    whole = [
        found
        for found in folder.glob("checkpoint-*")
        if all(any(any(found.glob(name)) for name in names) for names in SAVED)
    ]
    return str(max(whole, key=lambda found: int(found.name.rpartition("-")[2]))) if whole else None


def write_progress(checkpoint: Path, progress: dict[str, Any]) -> None:
    """Make a checkpoint whole.

    Args:
        checkpoint: Its folder, with everything else in it.
        progress: As JSON.
    """
    partial = checkpoint / f"{PROGRESS}.partial"
    partial.write_text(json.dumps(progress) + "\n", encoding="utf-8")
    partial.replace(checkpoint / PROGRESS)


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """What ``write_progress`` wrote."""
    progress: dict[str, Any] = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
    return progress


def read_state(checkpoint: Path) -> TrainerState:
    """The ``Trainer``'s own part of a checkpoint."""
    return TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


def load_trained(model: PeftModel, checkpoint: Path) -> None:
    """Put what a checkpoint trained into a model.

    Args:
        model: With the same adapters, not yet trained.
        checkpoint: Of the training, in one process or in several.
    """
    shards = checkpoint / SHARDS
    if shards.is_dir():
        weights = get_peft_model_state_dict(model)
        load_sharded({"model": weights}, checkpoint_id=shards, no_dist=True)
    else:
        weights = load_peft_weights(str(checkpoint), device="cpu")
    set_peft_model_state_dict(model, weights)


class KeepProgress(TrainerCallback):
    """Writes into every checkpoint how far the text was read and how long that took, which makes it whole."""

    def __init__(self, batches: PackedBatches):
        """Keep progress.

        Args:
            batches: What the training reads.
        """
        self.batches = batches
        self._before_s, self._begun = 0.0, time.monotonic()

    @property
    def wall_s(self) -> float:
        """Seconds of training in this run and those that it goes on from."""
        return self._before_s + time.monotonic() - self._begun

    def load(self, checkpoint: Path) -> None:
        """Go on from a checkpoint."""
        progress = read_progress(checkpoint)
        self.batches.load_state(progress["step"], progress["text"])
        self._before_s = progress["wall_s"]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add to the checkpoint that was just written."""
        if state.is_world_process_zero:
            step = state.global_step
            text = self.batches.state_after(step)
            progress = {"step": step, "text": text, "wall_s": round(self.wall_s, 3)}
            write_progress(Path(str(args.output_dir)) / f"checkpoint-{step}", progress)
