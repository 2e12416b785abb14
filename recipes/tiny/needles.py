"""How often a model gives the whole value of a needle."""

import random

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from recipes.tiny.text import document, join


@torch.inference_mode()
def needle_rate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    tokens: int,
    count: int,
    seed: int,
    depth: float | None = None,
    needles: int = 1,
    batch: int = 20,
) -> float:
    """Share of documents whose whole answer is what greedy decoding gives.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        tokens: Length of the documents, BOS and answer included.
        count: Documents.
        seed: Seed of the documents.
        depth: Place of the needles, 0 to 1; drawn for each if None.
        needles: Needles per document, of which one is asked for.
        batch: Documents per forward pass.

    Returns:
        The rate, 0 to 1.
    """
    rng = random.Random(seed)
    found = 0
    for start in range(0, count, batch):
        size = min(batch, count - start)
        rows: list[list[int]] = []
        ends: list[tuple[int, int]] = []
        for _ in range(size):
            pieces = document(rng, tokenizer, tokens, needles, depth=depth)
            prompt = len(tokenizer.encode(join(pieces[:-1])))
            rows.append(tokenizer.encode(join(pieces)))
            ends.append((prompt, len(rows[-1]) - 1))
        ids = torch.full((size, tokens), int(tokenizer.eos_token_id))
        for row, row_ids in enumerate(rows):
            ids[row, : len(row_ids)] = torch.tensor(row_ids)
        guesses = model(input_ids=ids, use_cache=False).logits.argmax(-1)
        for row, (first, last) in enumerate(ends):
            found += bool((guesses[row, first - 1 : last - 1] == ids[row, first:last]).all())
    return found / count
