"""FSDP2, as a configuration of ``accelerate launch`` asks for it."""

from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from recipes.launch import is_sharded


def enable_sharding(accelerator: Accelerator) -> bool:
    """Shard models where the launcher asks for it, and say whether that is so.

    accelerate shards on devices alone: on the CPU it would copy whole models, without a word.

    Args:
        accelerator: Of a training; on the CPU it is changed, with the state that all accelerators share.
    """
    state = accelerator.state
    if is_sharded() and accelerator.distributed_type == DistributedType.MULTI_CPU:
        state.fsdp_plugin, state.distributed_type = FullyShardedDataParallelPlugin(), DistributedType.FSDP
        if isinstance(state.fsdp_plugin.cpu_offload, CPUOffloadPolicy):
            # There is no device that could read pinned memory.
            state.fsdp_plugin.cpu_offload = CPUOffloadPolicy(pin_memory=False)
    if accelerator.distributed_type != DistributedType.FSDP:
        return False
    policy = state.fsdp_plugin.mixed_precision_policy
    if isinstance(policy, MixedPrecisionPolicy):
        # accelerate would sum gradients over processes and passes in bfloat16.
        state.fsdp_plugin.mixed_precision_policy = replace(policy, reduce_dtype=torch.float32)
    return True


def shard_teacher(accelerator: Accelerator, teacher: nn.Module) -> None:
    """Shard a frozen model like the student, in place.

    Args:
        accelerator: Of the training.
        teacher: On the CPU, the same in every process.
    """
    fsdp2_prepare_model(accelerator, teacher)


@torch.no_grad()
def gather_trained(model: PeftModel) -> dict[str, Tensor]:
    """What was trained, whole, on the CPU, in every process; all processes must call it.

    Args:
        model: Sharded.

    Returns:
        Parameters by name.
    """
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
        for name, value in trained.items()
    }
