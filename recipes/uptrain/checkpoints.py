"""The checkpoints of a training that can be gone on with."""

from pathlib import Path

SAVED = ("adapter_model.safetensors", "optimizer*", "scheduler.pt", "rng_state*.pth", "trainer_state.json")
"""Files of a checkpoint, numbered by several processes; one that lacks any was cut off while it was made."""


def newest_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of a training that was written to its end; None when there is none.

    Args:
        folder: Of the training.
    """
    whole = [found for found in folder.glob("checkpoint-*") if all(any(found.glob(name)) for name in SAVED)]
    return str(max(whole, key=lambda found: int(found.name.rpartition("-")[2]))) if whole else None
