"""Measure the tiny checkpoint: ``python -m recipes.tiny.measure --help``. About two minutes on two cores."""

import json
import math
import os
import platform
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import torch
import typer
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from recipes.tiny.needles import needle_rate
from recipes.tiny.text import paragraphs
from recipes.tiny.windows import windowed

HERE = Path(__file__).parent
LENGTHS = (128, 256, 384, 512)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
WINDOW = 64
SINKS = 4
NEEDLE_SEED = 777
"""Seed of the test documents; training uses others."""


def rows(tokenizer: PreTrainedTokenizerFast, text: str, tokens: int) -> Tensor:
    """Cut a text into rows ``[rows, tokens]`` that begin with BOS; a shorter last row is dropped."""
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False))
    body = ids[: len(ids) // (tokens - 1) * (tokens - 1)].view(-1, tokens - 1)
    return functional.pad(body, (1, 0), value=int(tokenizer.bos_token_id))


@torch.inference_mode()
def perplexity(model: LlamaForCausalLM, ids: Tensor, first: int = 1, batch: int = 16) -> float:
    """Perplexity per token from position ``first`` on, in rows ``[rows, tokens]`` that begin with BOS."""
    total = 0.0
    for part in ids.split(batch):
        logits = model(input_ids=part, use_cache=False).logits[:, first - 1 : -1]
        total += functional.cross_entropy(
            logits.flatten(0, 1), part[:, first:].flatten(), reduction="sum"
        ).item()
    return math.exp(total / ids[:, first:].numel())


def unigram_perplexity(tokenizer: PreTrainedTokenizerFast, train: list[str], heldout: Tensor) -> float:
    """Perplexity of held-out rows under the token frequencies of training text, one added to each count."""
    counts = Counter(token for text in train for token in tokenizer.encode(text, add_special_tokens=False))
    total = sum(counts.values()) + len(tokenizer)
    targets = heldout[:, 1:].flatten().tolist()
    return math.exp(-sum(math.log((counts[token] + 1) / total) for token in targets) / len(targets))


@torch.inference_mode()
def attention_on_bos(model: LlamaForCausalLM, ids: Tensor) -> list[float]:
    """Mean attention on BOS by layer, over heads and over the queries past the window."""
    model.set_attn_implementation("eager")
    attentions = model(input_ids=ids, output_attentions=True, use_cache=False).attentions
    model.set_attn_implementation("sdpa")
    return [round(layer[:, :, WINDOW:, 0].mean().item(), 4) for layer in attentions]


def needles_by_global_layers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int
) -> dict[str, float]:
    """Needles found at the longest length with a window on all layers but the named ones."""
    layers = range(model.config.num_hidden_layers)
    choices = [(), *combinations(layers, 1), *combinations(layers, 2)]
    rates = {}
    for choice in choices:
        with windowed(model, WINDOW, SINKS, choice):
            rate = needle_rate(model, tokenizer, LENGTHS[-1], count, NEEDLE_SEED)
        rates[",".join(map(str, choice)) or "none"] = round(rate, 3)
    return rates


def measure(checkpoint: Path, heldout: Path, count: int) -> dict[str, object]:
    """Measure everything the README quotes.

    Args:
        checkpoint: Folder of a Llama checkpoint.
        heldout: Text it has not read.
        count: Needle documents per cell.

    Returns:
        Numbers ready for JSON. Perplexities are per token.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    model = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = rows(tokenizer, heldout.read_text(encoding="utf-8"), LENGTHS[-1])
    past = {"dense": perplexity(model, ids, first=WINDOW + SINKS)}
    for sinks in (0, 1, SINKS):
        with windowed(model, WINDOW, sinks):
            past[f"window {WINDOW}, {sinks} sinks"] = perplexity(model, ids, first=WINDOW + SINKS)
    grid = {
        str(tokens): {
            str(depth): round(needle_rate(model, tokenizer, tokens, count, NEEDLE_SEED, depth), 3)
            for depth in DEPTHS
        }
        for tokens in LENGTHS
    }
    several = needle_rate(model, tokenizer, LENGTHS[-1], count, NEEDLE_SEED, needles=4)
    training = checkpoint / "training.json"
    return {
        "training": json.loads(training.read_text(encoding="utf-8")) if training.is_file() else None,
        "machine": f"{os.cpu_count()} cores, {cpu_name()}, torch {torch.__version__}",
        "parameters": model.num_parameters(),
        "heldout_tokens": ids[:, 1:].numel(),
        "heldout_perplexity": round(perplexity(model, ids), 3),
        "unigram_perplexity": round(unigram_perplexity(tokenizer, paragraphs(1, 2000), ids), 1),
        "perplexity_past_window": {name: round(value, 3) for name, value in past.items()},
        "attention_on_bos_by_layer": attention_on_bos(model, ids[:8]),
        "needle_documents_per_cell": count,
        "needle_rate_by_length_and_depth": grid,
        "needle_rate_four_needles_512": round(several, 3),
        "needle_rate_512_by_global_layers": needles_by_global_layers(model, tokenizer, count),
    }


def cpu_name() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main(
    checkpoint: Path = typer.Option(HERE / "checkpoint", help="Folder of the checkpoint."),
    heldout: Path = typer.Option(HERE / "heldout.txt", help="Text that it has not read."),
    output: Path = typer.Option(HERE / "measured.json", help="JSON file to write."),
    count: int = typer.Option(100, min=1, help="Needle documents per length and depth."),
    threads: int = typer.Option(2, min=1, help="CPU threads."),
) -> None:
    """Measure language, retrieval and attention sinks of the tiny checkpoint; write the numbers as JSON."""
    for path in (checkpoint / "config.json", heldout):
        if not path.is_file():
            print(f"error: {path} is missing", file=sys.stderr)
            raise SystemExit(2)
    torch.set_num_threads(threads)
    numbers = measure(checkpoint, heldout, count)
    output.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(numbers, indent=2))


if __name__ == "__main__":
    typer.run(main)
