"""What each merge method costs: KL divergence to the source and perplexity on held-out text.

    python tests/benchmarks/merging.py CHECKPOINT --kv-heads 4 --calibrate train.txt --held-out test.txt

Prints one Markdown row per method. Text ``samples`` means what the source itself writes (temperature 1), for
a checkpoint whose own text is not at hand; calibration and held-out samples have different seeds.
"""

import argparse
import json
import math
import shutil
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from convert import Request, convert

METHODS = {
    "mean": {},
    "procrustes, no text": {"merge": "procrustes"},
    "procrustes": {"merge": "procrustes", "calibrate": True},
    "subspace, no text": {"merge": "subspace"},
    "subspace": {"merge": "subspace", "calibrate": True},
    "subspace, search": {"merge": "subspace", "calibrate": True, "group": "search"},
    "mean + refit": {"merge": "mean", "calibrate": True, "refit": True},
    "subspace + refit": {"merge": "subspace", "calibrate": True, "refit": True},
    "mean + refit + reconstruct": {"merge": "mean", "calibrate": True, "refit": True, "reconstruct": True},
    "subspace + refit + reconstruct": {
        "merge": "subspace",
        "calibrate": True,
        "refit": True,
        "reconstruct": True,
    },
}
SAMPLES = "samples"


def main() -> None:
    """Convert with every method and print the table."""
    arguments = parse()
    disable_progress_bar()
    work = Path(tempfile.mkdtemp(prefix="headroom-merging-"))
    try:
        source = AutoModelForCausalLM.from_pretrained(arguments.checkpoint, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
        length = min(arguments.length, source.config.max_position_embeddings)
        text = Path(arguments.calibrate)
        if arguments.calibrate == SAMPLES:
            text = work / "samples.txt"
            samples = write_samples(source, tokenizer, arguments.tokens, length, seed=0)
            text.write_text("".join(tokenizer.decode(row[1:], skip_special_tokens=True) for row in samples))
        if arguments.held_out == SAMPLES:
            rows = write_samples(source, tokenizer, arguments.held_out_tokens, length, seed=1)
        else:
            held_out = Path(arguments.held_out).read_text()
            rows = pack(tokenizer, held_out, length, arguments.held_out_tokens)
        reference = log_probabilities(source, rows)
        print(f"source: perplexity {perplexity(reference, rows):.3f} on {rows.numel()} tokens", flush=True)
        results = {}
        for kv_heads in arguments.kv_heads:
            for name in arguments.methods:
                results[f"{kv_heads} {name}"] = measure(
                    arguments, name, kv_heads, text, rows, reference, work
                )
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")
    finally:
        shutil.rmtree(work)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--kv-heads", type=int, nargs="+", required=True)
    parser.add_argument("--calibrate", required=True, help=f"a text file, or {SAMPLES}")
    parser.add_argument("--held-out", required=True, help=f"a text file, or {SAMPLES}")
    parser.add_argument("--tokens", type=int, default=Request.calibrate_tokens)
    parser.add_argument("--batch", type=int, default=Request.calibrate_batch)
    parser.add_argument("--held-out-tokens", type=int, default=16384)
    parser.add_argument("--length", type=int, default=256, help="tokens per held-out row")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--json", help="file for the numbers")
    return parser.parse_args()


def measure(
    arguments: argparse.Namespace,
    name: str,
    kv_heads: int,
    text: Path,
    rows: Tensor,
    reference: Tensor,
    work: Path,
) -> dict[str, float]:
    """Convert with one method and measure the result."""
    options = dict(METHODS[name])
    if options.pop("calibrate", False):
        options |= {"calibrate": str(text), "calibrate_tokens": arguments.tokens}
        options["calibrate_batch"] = arguments.batch
    if options.pop("reconstruct", False):
        options["reconstruct"] = arguments.steps
    folder = work / "result"
    started = time.perf_counter()
    convert(Request(arguments.checkpoint, folder, kv_heads=kv_heads, force=True, **options))
    wall_s = time.perf_counter() - started
    found = log_probabilities(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), rows)
    divergence = float((reference.exp() * (reference - found)).sum(dim=-1).mean())
    result = {"kl": divergence, "perplexity": perplexity(found, rows), "wall_s": wall_s}
    print(
        f"| {kv_heads} | {name} | {divergence:.4f} | {result['perplexity']:.3f} | {wall_s:.1f} s |",
        flush=True,
    )
    return result


def pack(tokenizer: object, text: str, length: int, tokens: int) -> Tensor:
    """Cut a text into rows of tokens, each begun as the tokenizer begins a text."""
    ids = tokenizer(text[: 12 * tokens], add_special_tokens=False, verbose=False)["input_ids"][:tokens]
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    step = length - len(start)
    return torch.tensor([start + ids[at : at + step] for at in range(0, len(ids) - step + 1, step)])


@torch.no_grad()
def log_probabilities(model: torch.nn.Module, rows: Tensor) -> Tensor:
    """Every next-token distribution, ``[R, T, V]``."""
    return torch.cat([model(part).logits.log_softmax(dim=-1) for part in rows.split(8)])


def perplexity(found: Tensor, rows: Tensor) -> float:
    """Perplexity per token, the first of a row not counted."""
    return math.exp(-found[:, :-1].gather(-1, rows[:, 1:, None]).mean())


def write_samples(model: torch.nn.Module, tokenizer: object, tokens: int, length: int, seed: int) -> Tensor:
    """What the source writes by itself, ``[R, T]`` token ids, each row from the beginning of a text."""
    torch.manual_seed(seed)
    start = torch.full((tokens // length + 1, 1), tokenizer.bos_token_id)
    return model.generate(
        start, attention_mask=torch.ones_like(start), do_sample=True, top_k=0, max_new_tokens=length - 1
    )


if __name__ == "__main__":
    main()
