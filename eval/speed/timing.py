"""Clocks, and contenders timed in turns."""

import time
from collections.abc import Callable, Mapping

import torch

from eval.stats import median

FLUSH_BYTES = {"cuda": 256 << 20, "cpu": 64 << 20}
"""More than the last-level cache of the processors at hand."""

WARM_UP = 2
"""Runs of a contender, at most, before those that are timed."""

Work = Callable[[], object]


class Clock:
    """Milliseconds of one call: device events on CUDA, the processor's clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        size = FLUSH_BYTES.get(device.type, FLUSH_BYTES["cpu"])
        self._flush = torch.empty(size // 4, dtype=torch.float32, device=device)

    def time_ms(self, work: Work, cold: bool) -> float:
        """Run once.

        Args:
            work: What to time.
            cold: Whether to push its inputs out of the caches first.
        """
        if cold:
            self._flush.zero_()
        if self.device.type != "cuda":
            began = time.perf_counter()
            work()
            return 1000 * (time.perf_counter() - began)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # Without a flush the queue is empty and the launch would be timed; with one it is hidden behind it.
        start.record()
        work()
        end.record()
        torch.cuda.synchronize(self.device)
        return start.elapsed_time(end)


def in_turns(
    clock: Clock, contenders: Mapping[str, Work], runs: int, limit_s: float, cold: bool
) -> dict[str, list[float]]:
    """Time every contender once per turn, in the same order, so that a busy machine slows all of them.

    Args:
        clock: Of the device they run on.
        contenders: Already run once, which compiled and allocated what they need.
        runs: Turns.
        limit_s: A contender sits out once its runs have taken this long; it always has one.
        cold: See ``Clock.time_ms``.

    Returns:
        Milliseconds by contender; entry ``t`` is from turn ``t``.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for work in contenders.values():
        if clock.time_ms(work, cold) < 1000:
            clock.time_ms(work, cold)
    for _ in range(runs):
        for name, work in contenders.items():
            if sum(times[name]) < 1000 * limit_s:
                times[name].append(clock.time_ms(work, cold))
    return times


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return ordered[quarter], median(ordered), ordered[-1 - quarter]


def paired_ratio(values: list[float], baseline: list[float]) -> float:
    """Median of the ratios of the turns that both took part in."""
    return median([a / b for a, b in zip(values, baseline, strict=False)])
