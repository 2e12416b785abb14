"""What a model still finds in a cache of a quarter of the bytes: evicted, merged, or behind a window.

    python tests/benchmarks/recall.py CHECKPOINT TEXT --cache heavy-hitter:recent=16 --cache merge:recent=16

Needles stand once or three times in a text, all before what a window of the same bytes would see. The
question ends the prompt, or comes in a pass of its own after the rest was compressed. Perplexity is that of
tokens past the budget, read some at a time. Every policy needs a ``budget`` setting, which is filled in.
"""

import argparse
import math
import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

import patches
from convert import Request, convert
from eval.retrieval.prompts import KEYS, NEEDLE, QUESTION, draw_value
from eval.stats import rate_error
from eval.text import TextSource, read_text
from patches.cache.windowed import WindowedCache

COPIES, SINKS = (1, 3), 4
DEPTHS = 0.15, 0.65
"""Where needles stand, as parts of the text; its beginning is cut so that the length is exact."""

MakeCache = Callable[[], WindowedCache]


class Sample(NamedTuple):
    """A text and a question about it, as tokens, and what the answer must contain."""

    text: list[int]
    question: list[int]
    value: str


def main() -> None:
    """Print a row for ``full``, one for a window, and one for each policy."""
    arguments = parse()
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    source = read_text(arguments.text, 1 - arguments.share)
    samples = {copies: list(draw(arguments, tokenizer, source, copies)) for copies in COPIES}
    rows = documents(arguments, tokenizer, source)
    print("| cache | of `full` | once, asked at the end | once, asked later | ", end="")
    print("three times, asked at the end | three times, asked later | perplexity |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as scratch:
        for name, share, model, make in contenders(arguments, Path(scratch)):
            cells = [
                rate(find(model, tokenizer, make, samples[copies], later, arguments.answer))
                for copies in COPIES
                for later in (False, True)
            ]
            cells.append(perplexity(model, make, rows, arguments))
            print(f"| {name} | {share:.3f} | {' | '.join(cells)} |", flush=True)


def contenders(
    arguments: argparse.Namespace, scratch: Path
) -> Iterator[tuple[str, float, PreTrainedModel, MakeCache]]:
    """Name, bytes of a text of the length as a part of ``full``, model, and what makes its cache."""
    model = AutoModelForCausalLM.from_pretrained(arguments.checkpoint, dtype=torch.float32).eval()
    config = model.config
    token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    full = token_bytes * arguments.length
    yield "`full`", 1.0, model, partial(patches.make_cache, model, "full")
    budget = round(arguments.budget * full)
    window = budget // token_bytes - SINKS
    convert(Request(arguments.checkpoint, scratch / "window", window=window, sinks=SINKS))
    windowed = AutoModelForCausalLM.from_pretrained(scratch / "window", dtype=torch.float32).eval()
    share = (window + SINKS) * token_bytes / full
    yield f"window {window} + {SINKS} sinks", share, windowed, partial(WindowedCache, windowed.config)
    for spec in arguments.cache:
        name, _, settings = spec.partition(":")
        whole = f"{name}:budget={budget}B" + (settings and f",{settings}")
        make = partial(patches.make_cache, model, whole)
        yield f"`{spec}`", held(model, make, arguments) / full, model, make


@torch.inference_mode()
def held(model: PreTrainedModel, make: MakeCache, arguments: argparse.Namespace) -> int:
    """Bytes of one text of the length."""
    cache = make()
    model(torch.full((1, arguments.length), 5), past_key_values=cache)
    return cache.nbytes


def draw(arguments: argparse.Namespace, tokenizer: Any, source: TextSource, copies: int) -> Iterator[Sample]:
    """Sentences from a random place on, with a needle between some of them, and its question."""

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    for index in range(arguments.samples):
        chance = random.Random(f"{copies}/{index}")
        key, value = chance.choice(KEYS), draw_value(chance, arguments.digits)
        needle, question = NEEDLE.format(key=key, value=value), encode(" " + QUESTION.format(key=key))
        room = arguments.length - 1 - len(question) - arguments.answer
        begin, sentences = chance.randrange(len(source.sentences)), []
        while len(encode(" ".join([*sentences, *[needle] * copies]))) < room + 40:
            sentences.append(source.sentences[(begin + len(sentences)) % len(source.sentences)])
        ends = [len(encode(" ".join(sentences[:count]))) for count in range(len(sentences) + 1)]
        low, high = (depth * ends[-1] for depth in DEPTHS)
        places = chance.sample([at for at, end in enumerate(ends) if low <= end <= high], copies)
        for at in sorted(places, reverse=True):
            sentences.insert(at, needle)
        yield Sample([tokenizer.bos_token_id, *encode(" ".join(sentences))[-room:]], question, value)


@torch.inference_mode()
def find(
    model: PreTrainedModel, tokenizer: Any, make: MakeCache, samples: list[Sample], later: bool, tokens: int
) -> list[bool]:
    """Whether each greedy answer of some tokens contains the value."""
    fixed = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": tokens}
    found = []
    for sample in samples:
        text, question = torch.tensor([sample.text]), torch.tensor([sample.question])
        cache = make()
        if later:
            model(text, past_key_values=cache, logits_to_keep=1)
        prompt = torch.cat([text, question], dim=1)
        answer = model.generate(prompt, past_key_values=cache, **fixed)
        found.append(sample.value in tokenizer.decode(answer[0, prompt.shape[1] :]))
    return found


def rate(found: list[bool]) -> str:
    """Counts, and a binomial standard error in percent."""
    return f"{sum(found)} of {len(found)} ± {100 * rate_error(sum(found), len(found)):.0f}%"


def documents(arguments: argparse.Namespace, tokenizer: Any, source: TextSource) -> Tensor:
    """``[documents, length]``: stories one after another."""
    tokens: list[int] = []
    for document in source.documents:
        tokens += tokenizer(document, add_special_tokens=False).input_ids
        if len(tokens) >= arguments.documents * (arguments.length - 1):
            break
    rows = torch.tensor(tokens[: arguments.documents * (arguments.length - 1)])
    first = torch.full((arguments.documents, 1), tokenizer.bos_token_id)
    return torch.cat([first, rows.reshape(arguments.documents, -1)], dim=1)


@torch.inference_mode()
def perplexity(model: PreTrainedModel, make: MakeCache, rows: Tensor, arguments: argparse.Namespace) -> str:
    """Of the tokens past the budget, each read from what was kept; with its standard error over documents."""
    begin = round(arguments.budget * arguments.length)
    cache, losses = make(), []
    for part in [rows[:, :begin], *rows[:, begin:].split(arguments.tokens, dim=1)]:
        losses.append(model(part, past_key_values=cache).logits.log_softmax(-1))
    predicted = torch.cat(losses, dim=1)[:, begin - 1 : -1]
    loss = -predicted.gather(2, rows[:, begin:, None])[..., 0].mean(dim=1)
    error = loss.std() / len(loss) ** 0.5
    return f"{math.exp(loss.mean()):.2f} ± {math.exp(loss.mean()) * error:.2f}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("text")
    parser.add_argument("--cache", action="append", default=[], help="a policy with a budget, without it")
    parser.add_argument("--budget", type=float, default=0.25, help="bytes, as a part of those of `full`")
    parser.add_argument("--share", type=float, default=0.06, help="of the text, at its end")
    parser.add_argument("--length", type=int, default=490, help="tokens, question and answer included")
    parser.add_argument("--samples", type=int, default=60, help="needles of each kind")
    parser.add_argument("--digits", type=int, default=4, help="of a needle's value")
    parser.add_argument("--answer", type=int, default=6, help="tokens of an answer")
    parser.add_argument("--documents", type=int, default=16, help="for perplexity")
    parser.add_argument("--tokens", type=int, default=8, help="read at a time, for perplexity")
    return parser.parse_args()


if __name__ == "__main__":
    main()
