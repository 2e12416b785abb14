"""Needle retrieval by length and depth, with the controls "needle beside the question" and "needle "
"removed"."""

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from eval.errors import EvalError
from eval.measures.base import Ask, Measure
from eval.results import Metric, Outcome
from eval.retrieval.documents import Condition, Document, DocumentMaker
from eval.stats import rate_error, wilson

TOKENS_AT_A_TIME = 8192

_LABELS = {
    "depth": ("needle", "Needles found"),
    "inside": ("needle_inside", "Control: needle beside the question"),
    "removed": ("needle_removed", "Control: needle removed"),
}


def plan(section: Any) -> list[tuple[Condition, int, float, int]]:
    """Condition, length, depth and number of every document, in the order of the samples."""
    wanted: list[tuple[Condition, int, float, int]] = []
    for length in section.lengths:
        for depth in section.depths:
            wanted += [("depth", length, depth, index) for index in range(section.samples)]
        wanted += [("inside", length, 1.0, index) for index in range(section.controls)]
        wanted += [("removed", length, 0.0, index) for index in range(section.controls)]
    return wanted


def build(ask: Ask) -> list[Document]:
    """The documents: the same ones for every checkpoint with the same tokenizer, suite, text and seed."""
    maker = DocumentMaker(ask.text, ask.subject.tokenizer, ask.subject.bos, ask.section.digits)
    return [
        maker.make(
            condition, length, depth, random.Random(f"{ask.seed}/{condition}/{length}/{depth}/{index}")
        )
        for condition, length, depth, index in plan(ask.section)
    ]


def found(answer: str, value: str) -> bool:
    """Whether the continuation contains the value: RULER's criterion (arXiv 2404.06654, string match)."""
    return value in answer


def exact(answer: str, value: str) -> bool:
    """Whether the first number in the continuation is the value, with no digit more or less."""
    number = re.search(r"\d+", answer)
    return number is not None and number.group() == value


def run(ask: Ask) -> Outcome:
    """Let the model continue every document greedily and count."""
    documents = build(ask)
    answers = generate(ask, documents)
    hits = [found(answer, document.value) for answer, document in zip(answers, documents, strict=True)]
    metrics = [_metric(name, documents, hits) for name in _LABELS]
    chosen = [
        exact(answer, document.value)
        for answer, document in zip(answers, documents, strict=True)
        if document.condition == "depth"
    ]
    metrics.append(_rate("needle_exact", "Needles found, no digit more or less", chosen, False))
    window = ask.subject.checkpoint.window
    if window is not None:
        for key, label, beyond in (
            ("needle_beyond", "Needles found, beyond the window", True),
            ("needle_within", "Needles found, within the window", False),
        ):
            chosen = [
                _beyond(document, window) == beyond and document.condition == "depth"
                for document in documents
            ]
            if any(chosen):
                metrics.append(
                    _rate(key, label, [hit for hit, use in zip(hits, chosen, strict=True) if use], False)
                )
    detail = {
        "cells": _cells(documents, hits, window),
        "lengths": sorted(set(ask.section.lengths)),
        "depths": sorted(set(ask.section.depths)),
        "window": window,
        "answer_tokens": documents[0].answer_tokens,
    }
    samples = [
        {
            "condition": document.condition,
            "length": document.length,
            "depth": document.depth,
            "needle_at": document.needle_at,
            "distance": document.distance,
            "key": document.key,
            "value": document.value,
            "answer": answer,
            "found": hit,
            "exact": exact(answer, document.value),
        }
        for document, answer, hit in zip(documents, answers, hits, strict=True)
    ]
    return Outcome(metrics=metrics, detail=detail, samples=samples, warnings=_warnings(ask, documents, hits))


@torch.inference_mode()
def generate(ask: Ask, documents: Sequence[Document]) -> list[str]:
    """Greedy continuations, in batches of one length, each with the cache that ``generate`` builds for "
    "itself."""
    subject = ask.subject
    pad = subject.tokenizer.pad_token_id
    pad = subject.tokenizer.eos_token_id if pad is None else pad
    answers = [""] * len(documents)
    by_length: dict[int, list[int]] = {}
    for index, document in enumerate(documents):
        by_length.setdefault(len(document.ids), []).append(index)
    for size, indices in by_length.items():
        rows = ask.batch_size or max(1, TOKENS_AT_A_TIME // size)
        for start in range(0, len(indices), rows):
            batch = indices[start : start + rows]
            ids = torch.tensor([documents[index].ids for index in batch], device=subject.device)
            config = GenerationConfig(
                max_new_tokens=documents[batch[0]].answer_tokens,
                do_sample=False,
                pad_token_id=0 if pad is None else pad,
                eos_token_id=subject.tokenizer.eos_token_id,
            )
            output = subject.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
            )
            texts = subject.tokenizer.batch_decode(output[:, size:], skip_special_tokens=True)
            for index, text in zip(batch, texts, strict=True):
                answers[index] = text
            ask.tick(len(batch))
    return answers


def _beyond(document: Document, window: int) -> bool:
    """Whether any of the needle lies outside the window of the answer's last token."""
    return document.distance is not None and document.distance > window


def _metric(condition: str, documents: Sequence[Document], hits: Sequence[bool]) -> Metric:
    key, label = _LABELS[condition]
    chosen = [hit for hit, document in zip(hits, documents, strict=True) if document.condition == condition]
    return _rate(key, label, chosen, True)


def _rate(key: str, label: str, hits: Sequence[bool], headline: bool) -> Metric:
    n, k = len(hits), sum(hits)
    low, high = wilson(k, n)
    return Metric(
        key=key,
        label=label,
        value=100 * k / n,
        stderr=100 * rate_error(k, n),
        interval=(100 * low, 100 * high),
        n=n,
        n_of="documents",
        unit="%",
        better="neither" if key == "needle_removed" else "higher",
        headline=headline,
        per_sample=[100.0 * hit for hit in hits],
    )


def _cells(documents: Iterable[Document], hits: Sequence[bool], window: int | None) -> list[dict[str, Any]]:
    """Counts by condition, length and depth; ``beyond`` counts needles outside the checkpoint's window."""
    cells: dict[tuple[str, int, float | None], dict[str, Any]] = {}
    for document, hit in zip(documents, hits, strict=True):
        where = (document.condition, document.length, document.depth)
        cell = cells.setdefault(where, {"condition": where[0], "length": where[1], "depth": where[2], "n": 0})
        cell["n"] += 1
        cell["found"] = cell.get("found", 0) + hit
        cell["beyond"] = cell.get("beyond", 0) + (window is not None and _beyond(document, window))
    return list(cells.values())


def _warnings(ask: Ask, documents: Sequence[Document], hits: Sequence[bool]) -> list[str]:
    """What makes the rates say less than they seem to."""
    window, name = ask.subject.checkpoint.window, ask.subject.name
    warnings = []
    beside = [hit for hit, document in zip(hits, documents, strict=True) if document.condition == "inside"]
    if sum(beside) < 0.9 * len(beside):
        warnings.append(
            f"{name}: finds only {sum(beside)} of {len(beside)} needles that stand beside the question: its "
            "needle scores are limited by the model, not only by its cache"
        )
    if window is None:
        return warnings
    if not any(_beyond(document, window) for document in documents):
        warnings.append(
            f"{name}: every needle lies within its window of {window} tokens, so these needles say nothing "
            "about the window: give longer --lengths"
        )
    needed = max(
        (document.distance or 0 for document in documents if document.condition == "inside"), default=0
    )
    if needed > window:
        warnings.append(
            f"{name}: even beside the question the needle needs {needed} tokens, more than its window of "
            f"{window}: the control is not inside"
        )
    return warnings


def check(checkpoint: Any, section: Any) -> None:
    """Refuse documents longer than the model's positions."""
    checkpoint.check_length(max(section.lengths), "needle.lengths")
    if len(set(section.lengths)) != len(section.lengths) or len(set(section.depths)) != len(section.depths):
        raise EvalError("needle: lengths and depths must not repeat")


NEEDLE = Measure(
    name="needle",
    how=(
        "one sentence with a number is hidden among others; the model is asked for it, and its greedy "
        "answer, through its own cache, must contain it (RULER's criterion). Rates with binomial standard "
        "errors and Wilson 95% intervals; every checkpoint reads the same documents."
    ),
    run=run,
    check=check,
    work=lambda section: len(plan(section)),
)
