"""A calibration text shared by the processes of one launch: each runs its own rows, sums are everybody's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from convert.errors import ConvertError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long a process waits for the main one, which reconstructs and writes alone."""


@dataclass(frozen=True)
class Share:
    """This process among those that read a text together; by default it is alone.

    Attributes:
        rank: 0 is the main process, the only one that writes.
        size: How many there are.

    Holds: two processes find the covariances of one, and write the same weights
    (tests/convert/test_shared_calibration.py).
    """

    rank: int = 0
    size: int = 1

    def rows(self, rows: Tensor, batch: int) -> Tensor:
        """This process's rows of a text ``[R, T]``: every so-many-th batch.

        Raises:
            ConvertError: there are fewer batches than processes.
        """
        import torch

        batches = rows.split(batch)
        if len(batches) < self.size:
            raise ConvertError(
                f"a text of {len(batches)} batches of {batch} rows is too short for {self.size} processes "
                "(give more --calibrate-tokens or a smaller --calibrate-batch)"
            )
        return torch.cat(batches[self.rank :: self.size])

    def add(self, *sums: Tensor) -> None:
        """Replace each sum over own tokens by that over everybody's, in place."""
        if self.size > 1:
            import torch.distributed as dist

            for own in sums:
                whole = own.cpu()
                dist.all_reduce(whole)
                own.copy_(whole)

    def gather(self, rows: Tensor, batch: int) -> Tensor:
        """In the main process all rows ``[R, ...]`` in the order of the text; in the others their own."""
        if self.size == 1:
            return rows
        import torch
        import torch.distributed as dist

        parts: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(rows.cpu(), parts)
        if parts is None:
            return rows
        split = [part.split(batch) for part in parts]
        ordered = [part[turn] for turn in range(len(split[0])) for part in split if turn < len(part)]
        return torch.cat(ordered).to(rows.device)

    def from_main(self, make: Callable[[], T]) -> T:
        """What ``make`` returns in the main process, in every process; the others wait.

        Raises:
            ConvertError: ``make`` raised one; every process raises it.
        """
        if self.size == 1:
            return make()
        import torch.distributed as dist

        answer: list[Any] = [None, None]
        if self.rank == 0:
            try:
                answer[0] = make()
            except ConvertError as error:
                answer[1] = error
        dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise answer[1]
        made: T = answer[0]
        return made


ALONE = Share()


@contextmanager
def joined() -> Iterator[Share]:
    """Meet the other processes of ``accelerate launch`` or ``torchrun``, if any, and leave them at the end.

    Sums travel through the CPU; a process that computes on a GPU has one of its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Share(dist.get_rank(), dist.get_world_size())
    finally:
        # gloo's threads would outlive their owner and now and then abort a process that has done its work.
        dist.destroy_process_group()
