"""FSDP2, as a configuration of ``accelerate launch`` asks for it."""

import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.tensor import DTensor


def shard_on_cpu(accelerator: Accelerator) -> None:
    """Shard on the CPU too where the launcher asks for it: accelerate by itself would copy, without a word.

    Args:
        accelerator: Of a launch; changed in place, together with the state that all accelerators share.
    """
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked and accelerator.distributed_type == DistributedType.MULTI_CPU:
        plugin = FullyShardedDataParallelPlugin()
        if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
            # There is no device that could read pinned memory.
            plugin.cpu_offload = CPUOffloadPolicy(pin_memory=False)
        accelerator.state.fsdp_plugin = plugin
        accelerator.state.distributed_type = DistributedType.FSDP


def place_teacher(accelerator: Accelerator, teacher: nn.Module) -> nn.Module:
    """Put a frozen teacher where it is asked: sharded like the student, or whole on every device.

    Args:
        accelerator: Of the training.
        teacher: In memory, the same in every process.
    """
    if accelerator.is_fsdp2:
        placed: nn.Module = fsdp2_prepare_model(accelerator, teacher)
        return placed
    return teacher.to(accelerator.device)


@torch.no_grad()
def gather_trained(model: PeftModel) -> dict[str, Tensor]:
    """What was trained, whole, on the CPU, in every process; all processes must call it.

    Args:
        model: Sharded.

    Returns:
        Parameters by the names they have in a model that is not sharded.
    """
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            whole: Any = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            # Activation checkpointing puts a module of this name around every layer.
            found[name.replace("_checkpoint_wrapped_module.", "")] = whole.detach().cpu()
    return found
