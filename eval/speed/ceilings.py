"""What the machine does at best: a large copy and a large matrix product."""

import torch

from eval.speed.records import Ceilings
from eval.speed.timing import Clock
from eval.stats import median

COPY_BYTES = {"cuda": 1 << 30, "cpu": 128 << 20}
MATMUL_SIZE = {"cuda": 8192, "cpu": 1024}
RUNS = 7


def measure_ceilings(clock: Clock, dtype: torch.dtype) -> Ceilings:
    """Copy bandwidth and matrix-product rate of the clock's device, on random data.

    Args:
        clock: Of the device.
        dtype: Of the product.
    """
    device = clock.device
    kind = device.type if device.type in COPY_BYTES else "cpu"
    source = torch.randn(COPY_BYTES[kind] // 4, device=device)
    target = torch.empty_like(source)
    size = MATMUL_SIZE[kind]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)

    def copy() -> None:
        target.copy_(source)

    def multiply() -> None:
        torch.mm(left, right, out=product)

    seconds = []
    for work in (copy, multiply):
        work()
        seconds.append(median([clock.time_ms(work, cold=False) for _ in range(RUNS)]) / 1000)
    return Ceilings(
        copy_bytes_per_s=2 * source.nbytes / seconds[0], matmul_flop_per_s=2 * size**3 / seconds[1]
    )
