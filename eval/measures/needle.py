"""Retrieval by kind, length and depth, with the controls "beside the question" and "removed"."""

import hashlib
import random
from collections.abc import Sequence
from typing import Any

import torch

from eval.errors import EvalError
from eval.generation import continue_greedily
from eval.measures.base import Ask, Measure
from eval.results import Outcome
from eval.retrieval import KINDS
from eval.retrieval.document import Document
from eval.retrieval.documents import DocumentMaker
from eval.retrieval.kind import Condition, Kind
from eval.retrieval.scoring import share_found
from eval.retrieval.summary import Answered, cells, rates, sample, warnings

TOKENS_AT_A_TIME = 8192


def plan(section: Any, kind: Kind) -> list[tuple[Condition, int, float, int]]:
    """Condition, length, depth and number of every document of a kind, in the order of the samples."""
    wanted: list[tuple[Condition, int, float, int]] = []
    for length in section.lengths:
        for depth in section.depths if kind.by_depth else [0.0]:
            wanted += [("depth", length, depth, index) for index in range(section.samples)]
        wanted += [("inside", length, 1.0, index) for index in range(section.controls)]
        wanted += [("removed", length, 0.0, index) for index in range(section.controls)]
    return wanted


def build(ask: Ask) -> list[Document]:
    """The documents: the same ones for every checkpoint with the same tokenizer, suite, text and seed."""
    maker = DocumentMaker(ask.text, ask.subject.tokenizer, ask.subject.bos, ask.section.digits)
    return [
        maker.make(
            KINDS[name],
            condition,
            length,
            depth,
            random.Random(f"{ask.seed}/{name}/{condition}/{length}/{depth}/{index}"),
        )
        for name in ask.section.kinds
        for condition, length, depth, index in plan(ask.section, KINDS[name])
    ]


def run(ask: Ask) -> Outcome:
    """Let the model continue every document greedily and count."""
    documents = build(ask)
    answered = [
        Answered(document, answer, share_found(answer, document.values))
        for document, answer in zip(documents, generate(ask, documents), strict=True)
    ]
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
    read = hashlib.sha256(repr([document.ids for document in documents]).encode()).hexdigest()
    return Outcome(
        metrics=metrics,
        detail=detail,
        samples=[sample(each, shape) for each in answered],
        warnings=warnings(ask.subject.name, [KINDS[name] for name in ask.section.kinds], answered, shape),
        read=read,
    )


def generate(ask: Ask, documents: Sequence[Document]) -> list[str]:
    """Greedy answers, in batches of one length."""
    answers = [""] * len(documents)
    alike: dict[tuple[int, int], list[int]] = {}
    for index, document in enumerate(documents):
        alike.setdefault((len(document.ids), document.answer_tokens), []).append(index)
    for (size, tokens), indices in alike.items():
        rows = ask.batch_size or max(1, TOKENS_AT_A_TIME // size)
        for start in range(0, len(indices), rows):
            batch = indices[start : start + rows]
            ids = torch.tensor([documents[index].ids for index in batch])
            output, _ = continue_greedily(ask.subject, ids, tokens)
            texts = ask.subject.tokenizer.batch_decode(output, skip_special_tokens=True)
            for index, text in zip(batch, texts, strict=True):
                answers[index] = text
            ask.tick(len(batch))
    return answers


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
    work=lambda section: sum(len(plan(section, KINDS[name])) for name in section.kinds),
)
