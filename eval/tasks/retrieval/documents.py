"""Documents of ``eval/retrieval`` for lm-eval: seeded, of the lengths that its metadata asks for, offline.

lm-eval calls :func:`make` with a task's metadata; the ``eval`` package must be importable.
"""

import random
from collections.abc import Sequence
from typing import Any

import datasets
from transformers import AutoTokenizer

from eval.errors import EvalError, unknown_name
from eval.retrieval import KINDS
from eval.retrieval.documents import DocumentMaker
from eval.retrieval.scoring import share_found
from eval.text import read_text

ANSWER = 64
"""Tokens to generate: ``max_gen_toks`` of shared.yaml."""
RECUT = 4
"""Tokens that the beginning of a prompt, where a sentence is cut, may take more once it is text again."""
LENGTHS = (1024,)
OWN_METRICS = {2**power for power in range(8, 18)}
"""Lengths that have a metric of their own in shared.yaml; others count in ``found`` alone."""


def make(
    kind: str,
    max_seq_lengths: Sequence[int] = LENGTHS,
    samples: int = 20,
    digits: int = 5,
    seed: int = 0,
    text: str | None = None,
    tokenizer: str | None = None,
    pretrained: str | None = None,
    model: str | None = None,
    **_others: Any,
) -> dict[str, datasets.Dataset]:
    """Documents of one kind; depths go evenly from the beginning to the end.

    Args:
        kind: One of ``eval.retrieval.KINDS``.
        max_seq_lengths: Tokens of a prompt, BOS included, with the tokens to generate after it.
        samples: Documents per length.
        tokenizer: Folder or name; ``pretrained`` or ``model`` of the model's arguments when not given.

    Raises:
        EvalError: there is no tokenizer, no such kind, or no room in a length.
    """
    name = tokenizer or pretrained or model
    if name is None:
        raise EvalError(
            "documents of a length in tokens need a tokenizer: give --model_args pretrained=PATH, or "
            'metadata {"tokenizer": "PATH"}'
        )
    if kind not in KINDS:
        raise EvalError(unknown_name("kind", kind, KINDS))
    loaded = AutoTokenizer.from_pretrained(name)
    bos = [] if loaded.bos_token_id is None else [loaded.bos_token_id]
    maker = DocumentMaker(read_text(text), loaded, bos, digits)
    spare = ANSWER - maker.answer_tokens(KINDS[kind])
    rows = []
    for length in max_seq_lengths:
        for index in range(samples):
            rng = random.Random(f"{seed}/{kind}/{length}/{index}")
            depth = index / max(1, samples - 1)
            document = maker.make(KINDS[kind], "depth", length - spare - RECUT, depth, rng)
            rows.append(
                {
                    "prompt": document.text,
                    "answer": document.answer,
                    "values": list(document.values),
                    "length": length,
                    "depth": depth,
                }
            )
    return {"test": datasets.Dataset.from_list(rows)}


def score(document: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """The share of the values in the answer, also under the document's length."""
    share = share_found(answers[0], document["values"])
    by_length = {f"found@{document['length']}": share} if document["length"] in OWN_METRICS else {}
    return {"found": share, **by_length}
