"""The processes of one ``accelerate launch`` or ``torchrun``: what they share, and who writes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from eval.errors import EvalError

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long a process waits for the main one, which measures alone what is not split."""


@dataclass(frozen=True)
class Peers:
    """This process among those that were launched together; by default it is alone.

    Attributes:
        rank: 0 is the main process, the only one that writes.
        size: How many there are.
        accelerator: accelerate's ``Accelerator``; None for one that is alone.
        told: Errors of the main process that the others raise too; any other ends the whole launch.
    """

    rank: int = 0
    size: int = 1
    accelerator: Any = None
    told: tuple[type[Exception], ...] = (EvalError,)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def from_main(self, make: Callable[[], T]) -> T:
        """What ``make`` returns in the main process, in every process; the others wait.

        Raises:
            Exception: one of those that are ``told``, raised by ``make``; every process raises it.
        """
        if self.size == 1:
            return make()
        import torch.distributed as dist

        answer: list[Any] = [None, None]
        if self.main:
            try:
                answer[0] = make()
            except self.told as error:
                answer[1] = error
        dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise answer[1]
        made: T = answer[0]
        return made

    def gather(self, value: T) -> list[T]:
        """Every process's ``value`` in the order of their ranks, in every process."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def launched_rank() -> int:
    """This process's rank as its launcher said it; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def join_peers(device: str, told: tuple[type[Exception], ...] = (EvalError,)) -> Peers:
    """Meet the other processes of the launch, each with its own GPU or all on the CPU.

    Args:
        device: ``auto``, ``cuda`` or ``cpu``.
        told: Errors of the main process that the others raise too.

    Raises:
        EvalError: a device by number, which all processes would share.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Peers()
    if device not in ("auto", "cuda", "cpu"):
        raise EvalError(f"device {device!r}: several processes take auto, cuda or cpu, and one GPU each")
    import torch
    from accelerate import Accelerator, InitProcessGroupKwargs

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    accelerator = Accelerator(cpu=on_cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    return Peers(accelerator.process_index, accelerator.num_processes, accelerator, told)


@contextmanager
def parting() -> Iterator[None]:
    """Leave the other processes, if any were joined, at the end of a program.

    Without it gloo's threads outlive their owner and now and then abort a process that has done its work.
    """
    try:
        yield
    finally:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()
