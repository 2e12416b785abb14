"""What a piece of work allocates: asked of the allocator, whoever allocates."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.autograd.profiler import profile


@dataclass(frozen=True)
class Allocated:
    """Bytes beyond those before.

    Attributes:
        peak: The most that was held at once.
        kept: What is still held afterwards; negative where more was given up.
    """

    peak: int
    kept: int


def allocated(work: Callable[[], object], device: torch.device) -> Allocated:
    """Run once and count; on a CPU under the profiler.

    Args:
        work: What to run; what it returns is dropped before it is counted.
        device: Whose memory.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device)
        return Allocated(peak - before, torch.cuda.memory_allocated(device) - before)
    with profile(profile_memory=True) as recorded:
        work()
    events = recorded.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return Allocated(max(accumulate(sizes, initial=0)), sum(sizes))
