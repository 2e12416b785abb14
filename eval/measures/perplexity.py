"""Perplexity on packed contexts: over all positions, by position, in a sliding evaluation, and per byte."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from eval.checkpoint import Loaded
from eval.contexts import Contexts, pack
from eval.errors import EvalError
from eval.logits import next_token_logits, rows_at_a_time, token_losses
from eval.measures.base import Ask, Measure
from eval.metrics import mean_metric
from eval.positions import position_buckets
from eval.results import Metric, Outcome
from eval.stats import mean, ratio_samples


def run(ask: Ask) -> Outcome:
    """Score every context once, then average losses over the positions of each bucket."""
    section, subject = ask.section, ask.subject
    contexts = pack(
        ask.text,
        subject.tokenizer,
        subject.bos,
        section.length,
        section.contexts,
        from_start=section.from_start,
    )
    losses = context_losses(ask, contexts.ids)
    past = section.past or section.length // 2
    early, late = losses[:, : past - 1], losses[:, past - 1 :]
    metrics = [
        _metric("perplexity", "Perplexity", losses, contexts),
        _metric(f"perplexity@1-{past - 1}", f"Perplexity, positions 1 to {past - 1}", early, contexts, False),
        _metric(f"perplexity@{past}+", f"Perplexity, positions {past} and later", late, contexts),
        _drift(past, early, late, contexts),
    ]
    curve = [
        _metric(
            f"perplexity@{first}-{last}", f"Perplexity, positions {first} to {last}", part, contexts, False
        )
        for first, last, part in _buckets(losses)
    ]
    metrics += [metric for metric in curve if metric.key not in {known.key for known in metrics}]
    metrics += _per_byte(losses, contexts)
    if section.stride is not None:
        metrics.append(_sliding(ask))
    samples = [
        {"context": row, "document": document, "tokens": losses.shape[1], "mean_nll": float(loss)}
        for row, (document, loss) in enumerate(zip(contexts.documents, losses.mean(1), strict=True))
    ]
    detail = {
        "length": section.length,
        "tokens": losses.numel(),
        "curve": [
            {"first": first, "last": last, "value": metric.value, "stderr": metric.stderr}
            for (first, last, _), metric in zip(_buckets(losses), curve, strict=True)
        ],
    }
    warnings = contexts.warnings(f"{subject.name}: perplexity")
    return Outcome(metrics=metrics, detail=detail, samples=samples, warnings=warnings, read=contexts.digest)


def context_losses(ask: Ask, ids: Tensor, last: int | None = None) -> Tensor:
    """Loss in nats of every token but the first, ``[C, T - 1]``, float32, on the CPU; or of the ``last``."""
    rows = rows_at_a_time(ids.shape[1], ask.subject.vocabulary, ask.batch_size)
    losses = []
    for batch in ids.split(rows):
        losses.append(torch.tensor(ask.journal.part(partial(_batch_losses, ask.subject, batch, last))))
        ask.tick(len(batch))
    return torch.cat(losses)


def _batch_losses(subject: Loaded, batch: Tensor, last: int | None) -> list[list[float]]:
    on_device = batch.to(subject.device)
    targets = on_device[:, 1:]
    parts = [
        token_losses(logits, targets[:, where]).cpu()
        for where, logits in next_token_logits(subject.model, on_device)
    ]
    losses: list[list[float]] = torch.cat(parts, dim=1)[:, -(last or 0) :].tolist()
    return losses


def _buckets(losses: Tensor) -> list[tuple[int, int, Tensor]]:
    """First and last position and the losses of buckets that double in size."""
    edges = position_buckets(losses.shape[1] + 1)
    return [(first, end - 1, losses[:, first - 1 : end - 1]) for first, end in pairwise(edges)]


def _metric(key: str, label: str, losses: Tensor, contexts: Contexts, headline: bool = True) -> Metric:
    """exp(mean loss)."""
    rows = losses.double().mean(1).tolist()
    return exponential(key, label, rows, contexts, contexts.counted(losses.shape[1]), headline)


def _drift(past: int, early: Tensor, late: Tensor, contexts: Contexts) -> Metric:
    """Late perplexity over early perplexity, within the same contexts."""
    rows = (late.double().mean(1) - early.double().mean(1)).tolist()
    label = f"Perplexity from {past} on, as a ratio to that before"
    counted = contexts.counted(early.shape[1] + late.shape[1])
    return exponential("perplexity_drift", label, rows, contexts, counted, False)


def exponential(
    key: str, label: str, rows: Sequence[float], contexts: Contexts, counted: str, headline: bool
) -> Metric:
    """exp of the mean of the contexts' logarithms, which the delta method carries to its scale."""
    center = mean(rows)
    value = math.exp(center)
    samples = contexts.samples([value * (1 + row - center) for row in rows])
    metric = mean_metric(key, label, samples, counted, better="lower", headline=headline)
    return metric.model_copy(update={"value": value})


def _per_byte(losses: Tensor, contexts: Contexts) -> list[Metric]:
    """Bits per UTF-8 byte of the scored text: comparable between tokenizers, which perplexity is not."""
    if contexts.text_bytes is None:
        return []
    sizes = contexts.text_bytes[:, 1:].double().sum(1).tolist()
    bits = (losses.double().sum(1) / math.log(2)).tolist()
    samples = contexts.samples(ratio_samples(bits, sizes))
    counted = contexts.counted(losses.shape[1])
    metric = mean_metric("bits_per_byte", "Bits per byte", samples, counted, better="lower", headline=False)
    return [metric]


def _sliding(ask: Ask) -> Metric:
    """Perplexity of tokens that all see ``length - stride`` tokens or more: contexts that overlap."""
    section, subject = ask.section, ask.subject
    contexts = pack(
        ask.text, subject.tokenizer, subject.bos, section.length, section.contexts, step=section.stride
    )
    losses = context_losses(ask, contexts.ids, last=section.stride)
    seen = section.length - section.stride
    label = f"Perplexity, sliding: every token sees {seen} or more"
    return _metric(f"perplexity_sliding@{section.stride}", label, losses, contexts, False)


def check(checkpoint: Any, section: Any) -> None:
    """Refuse contexts longer than the model's positions, an empty bucket, and what cannot be combined."""
    checkpoint.check_length(section.length, "perplexity.length")
    if section.past is not None and not 2 <= section.past < section.length:
        raise EvalError(
            f"perplexity.past={section.past} must lie between 2 and length - 1 = {section.length - 1}"
        )
    if section.stride is not None and section.stride > section.length - 2:
        raise EvalError(
            f"perplexity.stride={section.stride} must be at most length - 2 = {section.length - 2}, so that "
            "contexts overlap"
        )


PERPLEXITY = Measure(
    name="perplexity",
    how=(
        "exp of the mean next-token loss on packed contexts, BOS first, without a cache, or through the "
        "model's own where the logits would not fit. The standard error is that of the contexts' mean "
        "losses, joined by document, times the perplexity."
    ),
    run=run,
    check=check,
    keys=("perplexity", "perplexity@*", "perplexity_drift", "perplexity_sliding@*", "bits_per_byte"),
    work=lambda section: section.contexts * (1 if section.stride is None else 2),
)
