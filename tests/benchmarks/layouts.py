"""What it costs to write to a cache layer and to read it, by its layout in memory and by how it grows.

    python tests/benchmarks/layouts.py --output runs/layouts

One layer, one row of the batch, on the CPU (float32) and, where there is one, on CUDA (bfloat16). Every layer
holds ``--tokens``; then all contenders of a group take turns at the same work:

- prompt: 2048 tokens into the layer while it is empty.
- token: one token, where there is room for it.
- growth: one token where there is none, so that the layer grows.
- mean: a token with its share of the next growth.
- read: one query per row on what the layer hands out, by the ``sdpa`` backend.
- step: token and read.

Milliseconds are medians; a ratio is the median of the ratios of steps within a turn, to the first of the
group. ``layouts.md`` and ``layouts.json`` are left in the output folder.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from eval.environment import environment
from eval.speed.timing import Clock, Work, in_turns, paired_ratio
from eval.stats import median
from patches.attention import sdpa
from patches.attention.scoring import Scoring
from patches.cache.growing import GrowingLayer
from patches.cache.layout import HEADS_FIRST, LAYOUTS, TOKENS_FIRST
from patches.cache.room import room
from patches.cache.window import WindowLayer
from patches.frame import Frame, Step

HEADS, SINKS, PROMPT = 32, 4, 2048
SHAPES = ("8x64", "8x128", "32x128")
OPERATIONS = ("token", "growth", "read", "step", "prompt")
COLUMNS = ("prompt", "token", "growth", "mean", "read", "step")


class Inputs(NamedTuple):
    """What every contender of a case is given: keys and values ``[B, K, T, D]``, as projections make them."""

    query: Tensor
    stored: tuple[Tensor, Tensor]
    token: tuple[Tensor, Tensor]


def main() -> None:
    """Time every case and write the tables."""
    arguments = parse()
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    devices = {"cpu": torch.float32} | ({"cuda": torch.bfloat16} if torch.cuda.is_available() else {})
    for device, dtype in devices.items():
        for shape in arguments.shapes:
            for tokens in arguments.tokens:
                drawn = draw(shape, tokens, torch.device(device), dtype)
                for group in (rings, growing):
                    rows += measure(group(drawn), drawn, arguments, {"device": device, "shape": shape})
                    print(f"{device} {shape} {tokens} {group.__name__}: done", flush=True)
    versions = {device: environment(torch.device(device), str(dtype)) for device, dtype in devices.items()}
    entry = {"arguments": vars(arguments), "environment": versions, "rows": rows}
    (output / "layouts.json").write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
    table = "\n".join(lines(rows))
    (output / "layouts.md").write_text(table + "\n", encoding="utf-8")
    print(table)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", required=True, help="folder for the tables")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="KV heads x head_dim; 32 query heads")
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 32768], help="powers of two")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--limit", type=float, default=20, help="seconds for one contender at one work")
    return parser.parse_args()


@torch.no_grad()
def draw(shape: str, tokens: int, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Random inputs for ``KxD`` after ``tokens`` others."""
    kv_heads, dim = map(int, shape.split("x"))

    def some(heads: int, count: int) -> Tensor:
        return torch.randn(1, count, heads, dim, dtype=dtype, device=device).transpose(1, 2)

    return Inputs(
        some(HEADS, 1),
        (some(kv_heads, tokens), some(kv_heads, tokens)),
        (some(kv_heads, 1), some(kv_heads, 1)),
    )


def rings(inputs: Inputs) -> dict[str, CacheLayerMixin]:
    """Window layers that are just full."""
    window = inputs.stored[0].shape[2] - SINKS
    return {f"ring, {name}": WindowLayer(window, SINKS, layout) for name, layout in LAYOUTS.items()}


def growing(_: Inputs) -> dict[str, CacheLayerMixin]:
    """Global layers."""
    return {
        "DynamicLayer": DynamicLayer(),
        f"growing, {HEADS_FIRST.name}": GrowingLayer(HEADS_FIRST),
        f"growing, {TOKENS_FIRST.name}": GrowingLayer(TOKENS_FIRST),
    }


@torch.no_grad()
def measure(
    layers: dict[str, CacheLayerMixin], inputs: Inputs, arguments: argparse.Namespace, case: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Time the layers of a group in turns; one row for each."""
    clock = Clock(inputs.query.device)
    works: dict[str, dict[str, Work]] = {operation: {} for operation in OPERATIONS}
    for name, layer in layers.items():
        for operation, work in prepare(layer, inputs).items():
            works[operation][name] = work
    times = {
        operation: in_turns(clock, contenders, arguments.runs, arguments.limit, cold=True)
        for operation, contenders in works.items()
    }
    first = next(iter(layers))
    for name in layers:
        taken = {operation: median(each[name]) for operation, each in times.items() if name in each}
        if "growth" in taken:
            held = inputs.stored[0].shape[2]
            taken["mean"] = taken["token"] + taken["growth"] / (room(held + 1) - held)
        ratio = paired_ratio(times["step"][name], times["step"][first])
        yield {**case, "tokens": inputs.stored[0].shape[2], "layer": name, "ms": taken, "ratio": ratio}


def prepare(layer: CacheLayerMixin, inputs: Inputs) -> dict[str, Work]:
    """Fill a layer, and give the work of each operation, which leaves it as it was."""
    tokens = inputs.stored[0].shape[2]
    ring = isinstance(layer, WindowLayer)
    layer.update(*inputs.stored)
    full = layer.keys, layer.values
    write = write_of(layer, inputs)
    frame = Frame(Step(tokens), 1, layer.window if ring else None, SINKS if ring else 0)
    scoring = Scoring(inputs.query.shape[-1] ** -0.5)
    write()

    def attend(keys: Tensor, values: Tensor) -> Tensor:
        return sdpa.attend(inputs.query, keys, values, frame, scoring)[0]

    def read() -> Tensor:
        return attend(layer.keys[:, :, : tokens + 1], layer.values[:, :, : tokens + 1])

    def grow() -> None:
        layer.keys, layer.values = full
        write()

    prompt = [states[:, :, :PROMPT] for states in inputs.stored]

    def fill() -> None:
        # A ring is allocated once for many prompts, other layers for each. It comes last, to spoil nothing.
        target = layer if ring else type(layer)(*([layer.layout] if isinstance(layer, GrowingLayer) else []))
        target.seen = 0
        target.update(*prompt)

    works: dict[str, Work] = {"token": write, "read": read, "step": lambda: attend(*write())}
    if isinstance(layer, GrowingLayer):
        works["growth"] = grow
    return works | {"prompt": fill}


def write_of(layer: CacheLayerMixin, inputs: Inputs) -> Callable[[], tuple[Tensor, Tensor]]:
    """One more token after ``inputs.stored``, however often it is called."""
    tokens, held = inputs.stored[0].shape[2], (layer.keys, layer.values)

    def write() -> tuple[Tensor, Tensor]:
        if isinstance(layer, DynamicLayer):
            layer.keys, layer.values = held
        else:
            layer.seen = tokens
        return layer.update(*inputs.token)

    return write


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| | KV heads x dim | tokens | layer | {', ms | '.join(COLUMNS)}, ms | step, ratio |"
    yield "|---|---|---:|---|" + "---:|" * (len(COLUMNS) + 1)
    for row in rows:
        cells = [f"{row['ms'][each]:.3f}" if each in row["ms"] else "" for each in COLUMNS]
        start = f"| {row['device']} | {row['shape']} | {row['tokens']} | {row['layer']} |"
        yield f"{start} {' | '.join(cells)} | {row['ratio']:.2f} |"


if __name__ == "__main__":
    main()
