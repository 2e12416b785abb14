"""Perplexity on packed contexts, over all positions and by position."""

import math
from typing import Any

import torch
from torch import Tensor

from eval.errors import EvalError
from eval.logits import next_token_logits, rows_at_a_time, token_losses
from eval.measures.base import Ask, Measure
from eval.results import Metric, Outcome
from eval.stats import mean, standard_error
from eval.text import pack

CURVE_POINTS = 8


def run(ask: Ask) -> Outcome:
    """Score every context once, then average losses over the positions of each bucket."""
    section, subject = ask.section, ask.subject
    ids = pack(ask.text, subject.tokenizer, subject.bos, section.length, section.contexts)
    losses = context_losses(ask, ids)
    past = section.past or section.length // 2
    metrics = [
        _metric("perplexity", "Perplexity", losses),
        _metric(
            f"perplexity@1-{past - 1}", f"Perplexity, positions 1 to {past - 1}", losses[:, : past - 1], False
        ),
        _metric(f"perplexity@{past}+", f"Perplexity, positions {past} and later", losses[:, past - 1 :]),
    ]
    samples = [
        {"context": row, "tokens": losses.shape[1], "mean_nll": float(loss)}
        for row, loss in enumerate(losses.mean(1))
    ]
    detail = {"length": section.length, "tokens": losses.numel(), "curve": _curve(losses)}
    return Outcome(metrics=metrics, detail=detail, samples=samples)


def context_losses(ask: Ask, ids: Tensor) -> Tensor:
    """Loss in nats of every token but the first: ``[contexts, length - 1]``, float32, on the CPU."""
    rows = rows_at_a_time(ids.shape[1], ask.subject.model.config.get_text_config().vocab_size, ask.batch_size)
    losses = []
    for batch in ids.split(rows):
        on_device = batch.to(ask.subject.device)
        losses.append(token_losses(next_token_logits(ask.subject.model, on_device), on_device).cpu())
        ask.tick(len(batch))
    return torch.cat(losses)


def _metric(key: str, label: str, losses: Tensor, headline: bool = True) -> Metric:
    """exp(mean loss); each context is one sample, its loss carried to the scale of perplexity by the delta "
    "method."""
    rows = losses.double().mean(1).tolist()
    value = math.exp(mean(rows))
    linear = [value * (1 + row - mean(rows)) for row in rows]
    return Metric(
        key=key,
        label=label,
        value=value,
        stderr=standard_error(linear),
        n=len(rows),
        n_of=f"contexts of {losses.shape[1]} tokens",
        better="lower",
        headline=headline,
        per_sample=linear,
    )


def _curve(losses: Tensor) -> list[dict[str, float | None]]:
    """Perplexity in equal ranges of positions, for the plot."""
    points = []
    first = 1
    for part in losses.tensor_split(min(CURVE_POINTS, losses.shape[1]), dim=1):
        metric = _metric("", "", part)
        points.append(
            {
                "first": first,
                "last": first + part.shape[1] - 1,
                "value": metric.value,
                "stderr": metric.stderr,
            }
        )
        first += part.shape[1]
    return points


def check(checkpoint: Any, section: Any) -> None:
    """Refuse contexts longer than the model's positions, and an empty bucket."""
    checkpoint.check_length(section.length, "perplexity.length")
    if section.past is not None and not 2 <= section.past < section.length:
        raise EvalError(
            f"perplexity.past={section.past} must lie between 2 and length - 1 = {section.length - 1}"
        )


PERPLEXITY = Measure(
    name="perplexity",
    how=(
        "exp of the mean next-token loss on packed contexts, BOS first. The contexts are the samples: the "
        "standard error is that of their mean losses, times the perplexity."
    ),
    run=run,
    check=check,
    work=lambda section: section.contexts,
)
