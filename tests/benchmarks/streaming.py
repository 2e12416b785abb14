"""Perplexity by position far past the trained length: sinks in the cache, sinks where they are, no sinks.

    python tests/benchmarks/streaming.py CHECKPOINT --text TEXT --trained 512 --times 32

The end of the text is cut into stretches of the trained length, which repeat one after the other for as long
as a row is. Each row of the batch begins at another one, so that every position meets the same text:
differences between positions are theirs alone. What repeats lies farther back than all windows of all layers
reach. Prints a Markdown table: the perplexity of the last half stretch before each position, and its ratio
to that at the trained length. Fails if ``cache`` is more than 10% from it.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

import patches
from convert import Request, convert

ALLOWED = 0.10


def main() -> int:
    """Measure the variants and print the table."""
    arguments = parse()
    disable_progress_bar()
    rows = rotations(arguments)
    sinks, window = arguments.sinks, arguments.window
    variants = {
        f"cache, {sinks} sinks": (window, sinks, "cache"),
        f"absolute, {sinks} sinks": (window, sinks, "absolute"),
        "no sinks": (window + sinks, 0, "absolute"),
    }
    marks = [arguments.trained * 2**power for power in range(arguments.times.bit_length())]
    found = {}
    with tempfile.TemporaryDirectory(prefix="headroom-streaming-") as folder:
        out = Path(folder) / "windowed"
        convert(Request(arguments.checkpoint, out, window=window, sinks=max(sinks, 1)))
        for name, variant in variants.items():
            losses = measure(out, variant, rows, arguments.chunk)
            found[name] = [perplexity(losses, mark, arguments.trained // 2) for mark in marks]
            print(f"{name}: done", file=sys.stderr, flush=True)
    report(found, marks, arguments.trained)
    drift = abs(next(iter(found.values()))[-1] / next(iter(found.values()))[0] - 1)
    print(
        f"\ncache: {drift:.1%} from the trained length, {'within' if drift <= ALLOWED else 'NOT within'} 10%"
    )
    return int(drift > ALLOWED)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--text", required=True, help="file, of which the end is read")
    parser.add_argument("--trained", type=int, default=512, help="tokens that the source was trained on")
    parser.add_argument("--times", type=int, default=32, help="longest position, as a power of 2 times that")
    parser.add_argument("--stretches", type=int, default=4, help="of the text, and rows of the batch")
    parser.add_argument("--window", type=int, default=252)
    parser.add_argument("--sinks", type=int, default=4)
    parser.add_argument("--chunk", type=int, default=512, help="tokens of a row per forward pass")
    return parser.parse_args()


def rotations(arguments: argparse.Namespace) -> Tensor:
    """Rows ``[R, 1 + trained * times]``: the start token, then stretches from another one on in each."""
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    text = Path(arguments.text).read_text(encoding="utf-8")
    tokens = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)
    needed = arguments.trained * arguments.stretches
    if len(tokens) < needed:
        raise SystemExit(f"the text has {len(tokens)} tokens; {needed} are needed")
    stretches = tokens[-needed:].reshape(arguments.stretches, -1)
    order = torch.arange(arguments.times) + torch.arange(arguments.stretches)[:, None]
    rows = stretches[order % arguments.stretches].flatten(1)
    start = torch.full((len(rows), 1), tokenizer.bos_token_id)
    return torch.cat([start, rows], dim=1)


def measure(folder: Path, variant: tuple[int, int, str], rows: Tensor, chunk: int) -> Tensor:
    """Loss of every token of every row, ``[R, N]``, read as a stream through a bounded cache."""
    config = AutoConfig.from_pretrained(folder)
    names = ("size", "sinks", "positions")
    config.attention_window = dict(zip(names, variant, strict=True)) | {"global_layers": []}
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    cache, losses = patches.WindowedCache(model.config), []
    with torch.inference_mode():
        for begin in range(0, rows.shape[1] - 1, chunk):
            part = rows[:, begin : begin + chunk + 1]
            logits = model(part[:, :-1], past_key_values=cache).logits
            losses.append(cross_entropy(logits.transpose(1, 2), part[:, 1:], reduction="none"))
    return torch.cat(losses, dim=1)


def perplexity(losses: Tensor, mark: int, stretch: int) -> float:
    """Of the ``stretch`` tokens before position ``mark``."""
    return math.exp(losses[:, mark - stretch : mark].double().mean())


def report(found: dict[str, list[float]], marks: list[int], trained: int) -> None:
    """Print the table: a row per position, a column per variant, perplexity and its ratio."""
    print(f"| position | {' | '.join(found)} |")
    print(f"|---:|{'---:|' * len(found)}")
    for index, mark in enumerate(marks):
        cells = (f"{values[index]:.2f} ({values[index] / values[0]:.3f})" for values in found.values())
        print(f"| {mark} ({mark // trained}x) | {' | '.join(cells)} |")


if __name__ == "__main__":
    raise SystemExit(main())
