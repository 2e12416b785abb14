"""Retrieval through the cache: a document is read before its question is known."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from eval.caches.records import Ask
from eval.checkpoint import Loaded
from eval.generation import continue_greedily
from eval.logits import TOKENS_AT_A_TIME
from eval.results import Metric
from eval.retrieval import KINDS
from eval.retrieval.document import Document
from eval.retrieval.documents import DocumentMaker
from eval.retrieval.scoring import share_found
from eval.retrieval.summary import rate_of

DIGITS = 5


def documents(ask: Ask, loaded: Loaded, kind: str, length: int) -> list[Document]:
    """The same for every contender: the evidence at depths from 0 to 1, evenly."""
    maker = DocumentMaker(ask.text, loaded.tokenizer, loaded.bos, DIGITS)
    depths = [index / max(ask.samples - 1, 1) for index in range(ask.samples)]
    return [
        maker.make(KINDS[kind], "depth", length, depth, random.Random(f"{ask.seed}/{kind}/{length}/{index}"))
        for index, depth in enumerate(depths)
    ]


def measure(
    loaded: Loaded, make: Callable[[], Any], asked: Sequence[Document]
) -> tuple[Metric, list[dict[str, Any]]]:
    """How many are answered, when the document has gone through the cache before the question comes.

    Args:
        make: An empty cache.
        asked: Of one kind and length.

    Returns:
        The rate, and every answer.
    """
    answers: list[str] = []
    rows = max(1, TOKENS_AT_A_TIME // asked[0].length)
    for begin in range(0, len(asked), rows):
        answers += _answer(loaded, make(), asked[begin : begin + rows])
    scores = [share_found(text, each.values) for text, each in zip(answers, asked, strict=True)]
    kind, length = asked[0].kind, asked[0].length
    found = [
        {"depth": each.depth, "values": each.values, "answer": text, "found": score}
        for text, each, score in zip(answers, asked, scores, strict=True)
    ]
    return rate_of(f"{kind}@{length}", f"{KINDS[kind].title}, {length:,} tokens", scores, True), found


@torch.inference_mode()
def _answer(loaded: Loaded, cache: Any, asked: Sequence[Document]) -> list[str]:
    ids = torch.tensor([each.ids for each in asked], device=loaded.device)
    question = max(len(loaded.tokenizer.encode(each.question, add_special_tokens=False)) for each in asked)
    read = ids[:, : ids.shape[1] - question]
    loaded.model(input_ids=read, past_key_values=cache, use_cache=True, logits_to_keep=1)
    written, _ = continue_greedily(loaded, ids, asked[0].answer_tokens, cache=cache)
    return list(loaded.tokenizer.batch_decode(written, skip_special_tokens=True))
