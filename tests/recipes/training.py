"""A training of a few small steps, and checkpoints as the hub has them."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from recipes.schema import UptrainPart


def training_part(**changes: Any) -> UptrainPart:
    """Four steps of two rows on generated text, with every loss."""
    data = {"kind": "tiny", "documents": 40, "tokens": 64, "needle_share": 0.0, "seed": 9}
    given = {
        "data": data, "steps": 4, "length": 64, "batch_size": 2, "log_every": 1, "save_every": 4,
        "attention_weight": 1.0, "warmup_steps": 1, "learning_rate": 1e-3,
        "lora": {"rank": 4, "alpha": 8},
    }  # fmt: skip
    return UptrainPart.model_validate(given | changes)


def leave_out(prefix: str, checkpoint: Path) -> None:
    """Name a checkpoint's tensors as one that was saved without its head does."""
    path = checkpoint / "model.safetensors"
    tensors = {name.removeprefix(prefix): value for name, value in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
