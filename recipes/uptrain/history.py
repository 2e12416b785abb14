"""What was done in a training, for the checkpoint that comes of it."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState

from recipes.schema import UptrainPart
from recipes.schema.data import describe
from recipes.uptrain.card import software
from recipes.uptrain.trainer import LOSSES


def tell(
    part: UptrainPart, teacher: Path, state: TrainerState, wall_s: float, device: torch.device
) -> dict[str, Any]:
    """The history of a training, as JSON.

    Args:
        part: The recipe's training.
        teacher: The source checkpoint.
        state: Of the training at its end; its log goes back to the first step, whatever was resumed.
        wall_s: Seconds in all runs of it, without what was lost when one was killed.
        device: Where it ran.

    Returns:
        Numbers, settings and versions; ``log`` has every entry of the training's log.
    """
    ends: dict[str, float] = {}
    for name in (*LOSSES, *(f"heldout_{name}" for name in LOSSES)):
        values = [entry[name] for entry in state.log_history if name in entry]
        if values:
            ends |= {f"{name}_first": values[0], f"{name}_last": values[-1]}
    best = {"best_step": state.best_global_step} if state.best_global_step else {}
    return {
        "teacher": teacher.name,
        "data": describe(part.data),
        "steps": state.global_step,
        **best,
        "tokens": int(state.num_input_tokens_seen),
        **ends,
        "wall_s": round(wall_s, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else str(device),
        "software": software(),
        "recipe": part.model_dump(mode="json"),
        "log": state.log_history,
    }
