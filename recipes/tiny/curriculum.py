"""What the tiny model reads while it learns: short documents that force it to look back, then longer ones."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from eval.retrieval.prompts import KEYS
from recipes.tiny.text import Piece, Role, document
from recipes.tiny.tokenizer import SPECIALS

WEIGHTS: dict[Role, float] = {"story": 0.5, "needle": 0.05, "question": 0.2, "answer": 4.0}
"""Loss per token by role: a needle's digits cannot be predicted, an answer's are the point."""


@dataclass(frozen=True)
class Stage:
    """Some steps at one length.

    Attributes:
        steps: Optimizer steps, at most.
        goal: Share of test needles found at which the stage ends early; None if it takes all its steps.
        tokens: Length of every sequence, BOS included.
        batch: Sequences per step.
        repeats: Share of sequences that are random tokens said again and again, with loss on the repetition.
        dense: Share that hold one to three needles per 128 tokens and several questions, with little else.
        needles: Share that hold one to four needles in stories, and one question. The rest is stories alone.
    """

    steps: int
    goal: float | None
    tokens: int
    batch: int
    repeats: float
    dense: float
    needles: float


STAGES = (
    Stage(steps=500, goal=0.9, tokens=96, batch=32, repeats=0.3, dense=0.6, needles=0.1),
    Stage(steps=1500, goal=0.9, tokens=128, batch=32, repeats=0.5, dense=0.5, needles=0.0),
    Stage(steps=400, goal=0.9, tokens=256, batch=16, repeats=0.2, dense=0.3, needles=0.4),
    Stage(steps=500, goal=None, tokens=512, batch=10, repeats=0.05, dense=0.05, needles=0.5),
)


def _repeated(
    rng: random.Random, tokens: int, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[int], list[float]]:
    """Some words or digits, no two alike, said again and again with a few others in between."""
    digits = tokenizer.backend_tokenizer.encode("0123456789", add_special_tokens=False).ids
    words = tokenizer.backend_tokenizer.encode(" " + " ".join(KEYS), add_special_tokens=False).ids
    pool = digits if rng.random() < 0.5 else sorted({*digits, *words})
    said = rng.sample(pool, k=rng.randint(4, min(24, len(pool))))
    ids, weights = list(said), [0.0] * len(said)
    while len(ids) < tokens - 1:
        between = rng.choices(range(len(SPECIALS), len(tokenizer)), k=rng.randint(0, 6))
        ids += between + said
        weights += [0.0] * (len(between) + 1) + [1.0] * (len(said) - 1)
    return ids[: tokens - 1], weights[: tokens - 1]


def encode(pieces: list[Piece], tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[float]]:
    """Token ids of a document without BOS, and the loss weight of each."""
    ids: list[int] = []
    weights: list[float] = []
    encodings = tokenizer.backend_tokenizer.encode_batch([p.text for p in pieces], add_special_tokens=False)
    for piece, encoding in zip(pieces, encodings, strict=True):
        ids += encoding.ids
        weights += [WEIGHTS[piece.role]] * len(encoding.ids)
    return ids, weights


def _row(
    rng: random.Random, stage: Stage, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[int], list[float]]:
    """One sequence of a stage, without BOS, and its loss weights."""
    draw = rng.random()
    if draw < stage.repeats:
        return _repeated(rng, stage.tokens, tokenizer)
    if draw < stage.repeats + stage.dense:
        scale = max(1, stage.tokens // 128)
        needles, questions = rng.choice(((1, 2), (2, 1)) if stage.tokens < 128 else ((1, 3), (2, 2), (3, 1)))
        return encode(document(rng, tokenizer, stage.tokens, needles * scale, questions * scale), tokenizer)
    if draw < stage.repeats + stage.dense + stage.needles:
        return encode(document(rng, tokenizer, stage.tokens, rng.choice((1, 1, 1, 2, 3))), tokenizer)
    ids, weights = encode(document(rng, tokenizer, stage.tokens + 64), tokenizer)
    return ids[: stage.tokens - 1], weights[: stage.tokens - 1]


def batches(seed: int, stage: Stage, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[Tensor, Tensor]]:
    """Write fresh batches without end; no sequence is read twice.

    Args:
        seed: Seed of everything.
        stage: Length, batch size and mixture.
        tokenizer: Counts and encodes.

    Yields:
        Ids ``[batch, tokens]``, int64, each row beginning with BOS and padded with EOS at its end; and the
        loss weight of predicting each of them, float32, same shape, 0 for BOS and padding.
    """
    rng = random.Random(seed)
    while True:
        ids = torch.full((stage.batch, stage.tokens), int(tokenizer.eos_token_id))
        weights = torch.zeros(stage.batch, stage.tokens)
        ids[:, 0] = int(tokenizer.bos_token_id)
        for row in range(stage.batch):
            row_ids, row_weights = _row(rng, stage, tokenizer)
            ids[row, 1 : 1 + len(row_ids)] = torch.tensor(row_ids)
            weights[row, 1 : 1 + len(row_weights)] = torch.tensor(row_weights)
        yield ids, weights
