"""A decode step with the ring, compiled, beside the same model with transformers' sliding window.

    python tests/benchmarks/compiled_decode.py --kv-heads 2,8 --rows 1 --length 8192 --window 4096

The ring has fixed shapes, so ``torch.compile`` makes one graph of a step; it has to be whole
(``fullgraph=True``). transformers' cache is timed as it is and compiled, as far as the compiler gets. All
have the same weights. First the compiled step is held against the one that is not, by the logits; then all
are timed in turns. Prints a Markdown table: milliseconds, medians, and how many times as long transformers
takes, the median of the ratios within a turn. A C++ compiler must be there.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

import patches
from eval.speed.model import Twins
from eval.speed.records import MODEL, Ask
from eval.speed.shapes import SHAPES
from eval.speed.timing import paired_ratio
from patches.attention.backends import AUTO

SINKS = 4
STEPS = 2
"""Of each contender in a turn."""
TOLERANCE = 1e-4


def main() -> int:
    """Time every shape and print the table."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    print("| KV heads | rows | ring | ring, compiled | transformers | compiled | of the ring | of compiled |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for kv_heads in arguments.kv_heads:
        for rows in arguments.rows:
            steps = contenders(kv_heads, rows, arguments.length, arguments.window)
            times: dict[str, list[float]] = {name: [] for name in steps}
            for _ in range(arguments.turns):
                for name, step in steps.items():
                    times[name].append(milliseconds(step))
            ring, compiled, stock, _ = times.values()
            medians = " | ".join(f"{statistics.median(each):.1f} ms" for each in times.values())
            ratios = " | ".join(f"{paired_ratio(stock, each):.2f}" for each in (ring, compiled))
            print(f"| {kv_heads} | {rows} | {medians} | {ratios} |", flush=True)
    return 0


def contenders(kv_heads: int, rows: int, length: int, window: int) -> dict[str, Callable[[], Tensor]]:
    """One more step each time it is called, after ``length`` tokens, by four ways; warmed up and checked."""
    torch.compiler.reset()
    shape = replace(SHAPES["tiny"], kv_heads=kv_heads)
    twins = Twins(
        Ask(
            shape=shape, checkpoint=None, layers_of=shape.layers, lengths=(length,), window=window,
            sinks=SINKS, batches=(rows,), phases=(MODEL,), backends=None, skip=(), runs=1, limit_s=0.0,
            device=torch.device("cpu"), dtype=torch.float32, threads=torch.get_num_threads(), seed=0,
        )
    )  # fmt: skip
    ours, theirs = twins.windowed(AUTO), twins.sliding()
    made = [
        (ours, patches.WindowedCache(ours.config), False),
        (ours, patches.WindowedCache(ours.config, max_length=2 * length), True),
        (theirs, DynamicCache(config=theirs.config), False),
        (theirs, DynamicCache(config=theirs.config), True),
    ]
    prompt = torch.randint(shape.vocab, (rows, length), generator=torch.Generator().manual_seed(length))
    steps = {}
    for name, (each, cache, compiled) in zip(("ring", "compiled", "stock", "both"), made, strict=True):
        with torch.inference_mode():
            for part in prompt.split(1024, dim=1):
                each(input_ids=part, past_key_values=cache, logits_to_keep=1)
        steps[name] = step_of(each, cache, prompt[:, :1], compiled, whole=each is ours)
    first, second = steps["ring"](), steps["compiled"]()
    if (error := (first - second).abs().max() / first.abs().max()) > TOLERANCE:
        raise SystemExit(f"the compiled step is wrong by {error:.1e}")
    for step in steps.values():
        for _ in range(10):
            step()
    return steps


def step_of(each: Any, cache: Any, token: Tensor, compiled: bool, whole: bool) -> Callable[[], Tensor]:
    """One token after those that ``cache`` has seen; its logits."""

    def logits(ids: Tensor) -> Tensor:
        found: Tensor = each(input_ids=ids, past_key_values=cache, use_cache=True).logits
        return found

    run = torch.compile(logits, fullgraph=whole) if compiled else logits

    @torch.inference_mode()
    def step() -> Tensor:
        return run(token)

    return step


def milliseconds(step: Callable[[], Tensor]) -> float:
    """Of one step."""
    begin = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - begin) / STEPS * 1e3


def parse() -> argparse.Namespace:
    """Read the command line."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kv-heads", type=numbers, default=[2, 8], help="of 8 query heads; default 2,8")
    parser.add_argument("--rows", type=numbers, default=[1], help="batch sizes; default 1")
    parser.add_argument("--length", type=int, default=8192, help="tokens before; default 8192")
    parser.add_argument("--window", type=int, default=4096, help="default 4096")
    parser.add_argument("--turns", type=int, default=30, help="default 30")
    parser.add_argument("--threads", type=int, default=2, help="of the processor; default 2")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
