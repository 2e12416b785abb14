"""What each cache policy costs: held-out text of which every token is predicted through the cache.

    python tests/benchmarks/caches.py CHECKPOINT TEXT --cache int8:residual=32 --cache int4:residual=32

The last part of the text is cut into documents, which are fed some tokens at a time, so that what was seen
before is read as it is stored. Prints one Markdown row per policy, with the bytes that one document holds at
its end.
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import patches
from patches.modeling import WindowedMixin


def main() -> None:
    """Print a row for ``full`` and one for each policy."""
    arguments = parse()
    model = AutoModelForCausalLM.from_pretrained(arguments.checkpoint, dtype=arguments.dtype).eval()
    rows = documents(arguments)
    print(f"{rows.shape[0]} documents of {rows.shape[1]} tokens, {arguments.tokens} at a time\n")
    found: dict[str, list[Cost]] = {spec: [] for spec in ["full", *arguments.cache]}
    for batch in rows.split(arguments.batch):
        exact, _ = predict(model, batch, "full", arguments.tokens)
        for spec, costs in found.items():
            costs.append(cost_of(batch, exact, *predict(model, batch, spec, arguments.tokens)))
    print("| cache | perplexity | to `full` | KL to `full` | bytes | of `full` |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    full = mean(found["full"])
    for spec, costs in found.items():
        cost = mean(costs)
        print(
            f"| `{spec}` | {math.exp(cost.loss):.4f} | {math.expm1(cost.loss - full.loss):+.2%} "
            f"| {cost.divergence:.2e} | {cost.nbytes:,.0f} | {cost.nbytes / full.nbytes:.3f} |"
        )


class Cost(NamedTuple):
    """Means over the tokens of some documents; bytes of one document at its end."""

    loss: float
    divergence: float
    nbytes: float


def mean(costs: list[Cost]) -> Cost:
    return Cost(*(sum(numbers) / len(costs) for numbers in zip(*costs, strict=True)))


def documents(arguments: argparse.Namespace) -> Tensor:
    """``[documents, length]``, from the end of the text."""
    text = Path(arguments.text).read_text(encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    held_out = text[int(len(text) * (1 - arguments.share)) :]
    tokens = tokenizer(held_out, add_special_tokens=False, return_tensors="pt").input_ids[0]
    length = arguments.length - 1
    count = min(len(tokens) // length, arguments.documents) // arguments.batch * arguments.batch
    rows = tokens[: count * length].reshape(count, length)
    first = torch.full((rows.shape[0], 1), tokenizer.bos_token_id)
    return torch.cat([first, rows], dim=1)


@torch.inference_mode()
def predict(model: PreTrainedModel, batch: Tensor, spec: str, tokens: int) -> tuple[Tensor, int]:
    """Log-probabilities ``[B, N - 1, V]`` of tokens but the first; bytes of the cache of one document."""
    windows = (spec,) if isinstance(model, WindowedMixin) else ()
    cache = patches.make_cache(model, spec, *windows)
    parts = [model(part, past_key_values=cache).logits for part in batch.split(tokens, dim=1)]
    return torch.cat(parts, dim=1)[:, :-1].float().log_softmax(-1), cache.nbytes // batch.shape[0]


def cost_of(batch: Tensor, exact: Tensor, predicted: Tensor, nbytes: int) -> Cost:
    loss = -predicted.gather(2, batch[:, 1:, None]).mean()
    divergence = (exact.exp() * (exact - predicted)).sum(-1).mean()
    return Cost(loss.item(), divergence.item(), nbytes)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("text")
    parser.add_argument("--cache", action="append", default=[], help="a policy, for all layers")
    parser.add_argument("--share", type=float, default=0.07, help="of the text, at its end")
    parser.add_argument("--length", type=int, default=490, help="tokens of a document, the first included")
    parser.add_argument("--documents", type=int, default=64, help="at most, whole batches")
    parser.add_argument("--tokens", type=int, default=16, help="fed at a time")
    parser.add_argument("--batch", type=int, default=16, help="documents at once")
    parser.add_argument("--dtype", default="float32", help="of the model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
