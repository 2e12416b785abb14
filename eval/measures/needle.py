"""Retrieval by kind, length and depth, with the controls "beside the question" and "removed"."""

import hashlib
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from eval.checkpoint import Loaded
from eval.errors import EvalError
from eval.generation import continue_greedily
from eval.logits import TOKENS_AT_A_TIME
from eval.measures.base import Ask, Measure
from eval.results import Outcome
from eval.retrieval import KINDS
from eval.retrieval.document import Document
from eval.retrieval.documents import DocumentMaker
from eval.retrieval.kind import Condition, Kind
from eval.retrieval.scoring import share_found
from eval.retrieval.summary import Answered, cells, rates, sample, warnings


def plan(section: Any, kind: Kind) -> list[tuple[Condition, float, int]]:
    """Condition, depth and number of every document of a kind and a length, in the order of the samples."""
    depths = section.depths if kind.by_depth else [0.0]
    wanted: list[tuple[Condition, float, int]] = [
        ("depth", depth, index) for depth in depths for index in range(section.samples)
    ]
    wanted += [("inside", 1.0, index) for index in range(section.controls)]
    return wanted + [("removed", 0.0, index) for index in range(section.controls)]


def build(ask: Ask) -> Iterator[list[Document]]:
    """The documents of each kind and length: the same for every checkpoint with the same tokenizer.

    Raises:
        EvalError: the shortest length has no room for a kind; before the first documents are answered.
    """
    section, subject = ask.section, ask.subject
    maker = DocumentMaker(ask.text, subject.tokenizer, subject.bos, section.digits)

    def make(name: str, length: int) -> list[Document]:
        kind, seed = KINDS[name], f"{ask.seed}/{name}"
        return [
            maker.make(
                kind, condition, length, depth, random.Random(f"{seed}/{condition}/{length}/{depth}/{index}")
            )
            for condition, depth, index in plan(section, kind)
        ]

    for name in section.kinds:
        make(name, min(section.lengths))
    for name in section.kinds:
        for length in section.lengths:
            yield make(name, length)


def run(ask: Ask) -> Outcome:
    """Let the model continue every document greedily and count."""
    answered: list[Answered] = []
    read = hashlib.sha256()
    for documents in build(ask):
        for document, answer in zip(documents, generate(ask, documents), strict=True):
            read.update(array("q", document.ids).tobytes())
            # The tokens of all documents of 128k tokens would take gigabytes.
            kept = replace(document, ids=[], text="")
            answered.append(Answered(kept, answer, share_found(answer, document.values)))
    shape = ask.subject.checkpoint.shape
    metrics, details = [], {}
    for name in ask.section.kinds:
        chosen = [each for each in answered if each.document.kind == name]
        metrics += rates(KINDS[name], chosen, shape, alone=len(ask.section.kinds) == 1)
        details[name] = {
            "title": KINDS[name].title,
            "depths": sorted(ask.section.depths) if KINDS[name].by_depth else [0.0],
            "by_depth": KINDS[name].by_depth,
            "cells": cells(chosen, shape),
            "answer_tokens": chosen[0].document.answer_tokens,
        }
    detail = {
        "lengths": sorted(ask.section.lengths),
        "window": shape.window,
        "sinks": shape.sinks,
        "kinds": details,
    }
    return Outcome(
        metrics=metrics,
        detail=detail,
        samples=[sample(each, shape) for each in answered],
        warnings=warnings(ask.subject.name, [KINDS[name] for name in ask.section.kinds], answered, shape),
        read=read.hexdigest(),
    )


def generate(ask: Ask, documents: Sequence[Document]) -> list[str]:
    """Greedy answers to documents of one kind and length, in batches."""
    answers: list[str] = []
    rows = ask.batch_size or max(1, TOKENS_AT_A_TIME // documents[0].length)
    for start in range(0, len(documents), rows):
        batch = documents[start : start + rows]
        answers += ask.journal.part(partial(_answer, ask.subject, batch))
        ask.tick(len(batch))
    return answers


def _answer(subject: Loaded, batch: Sequence[Document]) -> list[str]:
    ids = torch.tensor([document.ids for document in batch])
    output, _ = continue_greedily(subject, ids, batch[0].answer_tokens)
    decoded: list[str] = subject.tokenizer.batch_decode(output, skip_special_tokens=True)
    return decoded


def check(checkpoint: Any, section: Any) -> None:
    """Refuse documents longer than the model's positions, and anything given twice."""
    checkpoint.check_length(max(section.lengths), "needle.lengths")
    for key in ("kinds", "lengths", "depths"):
        if len(set(getattr(section, key))) != len(getattr(section, key)):
            raise EvalError(f"needle.{key} must not repeat")


NEEDLE = Measure(
    name="needle",
    how=(
        "facts are hidden among sentences; the model is asked for them, and its greedy answer, through its "
        "own cache, must contain them (RULER's criterion; where several are asked for, their share counts). "
        "Rates with standard errors and Wilson 95% intervals; every checkpoint reads the same documents."
    ),
    run=run,
    check=check,
    keys=tuple(key for name in KINDS for key in (name, f"{name}_*")),
    work=lambda section: sum(
        len(section.lengths) * len(plan(section, KINDS[name])) for name in section.kinds
    ),
)
