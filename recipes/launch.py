"""How a run was launched: whether models are sharded, and whether the launcher's settings can be kept."""

import os
from typing import Any

from recipes.errors import RecipeError

NEEDED = {
    "fsdp_version": ("2", "adapters are sharded by no other"),
    "fsdp_state_dict_type": ("SHARDED_STATE_DICT", "peft saves no other"),
    "fsdp_activation_checkpointing": (
        "false",
        "it renames what peft saves; set gradient_checkpointing in the recipe instead",
    ),
    "fsdp_cpu_ram_efficient_loading": (
        "false",
        "checkpoints that are measured would be empty in all processes but one",
    ),
}
"""Keys of an accelerate configuration: what a sharded run needs them to be, and why."""


def is_sharded() -> bool:
    """Whether this process was launched, with others, to hold a part of each model."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    return asked and int(os.environ.get("WORLD_SIZE", "1")) > 1


def describe_launch(launch: dict[str, Any] | None) -> str:
    """A launch as a run records it, in words."""
    if launch is None:
        return "an unknown launch"
    shared = " with a part of each model" if launch["sharded"] else ""
    return "one process" if launch["processes"] == 1 else f"{launch['processes']} processes{shared}"


def check_launch() -> None:
    """See that a run can be done as its launcher asks.

    Raises:
        RecipeError: a key of the launcher's configuration does not go with the recipe, with adapters or with
            evaluation.
    """
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision.lower() != "no":
        raise RecipeError(
            f"accelerate's mixed_precision is {precision} and must be no: the recipe says it, with bf16"
        )
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise RecipeError("accelerate's distributed_type is DEEPSPEED; allowed: NO, MULTI_GPU, FSDP")
    if not is_sharded():
        return
    for key, (needed, why) in NEEDED.items():
        # What a configuration leaves out, accelerate takes to be off.
        said = os.environ.get(key.upper(), "false")
        if said.lower() != needed.lower():
            raise RecipeError(f"accelerate's {key} is {said} and must be {needed}: {why}")
