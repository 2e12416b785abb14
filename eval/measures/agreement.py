"""How far a checkpoint's next-token distribution is from the baseline's, on the same tokens."""

from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from eval.checkpoint import Loaded
from eval.contexts import Contexts, pack
from eval.errors import EvalError
from eval.logits import divergence, next_token_logits, rows_at_a_time
from eval.measures.base import Ask, Measure
from eval.metrics import mean_kl, mean_metric
from eval.positions import position_buckets
from eval.results import Metric, Outcome


def run(ask: Ask) -> Outcome:
    """KL(baseline || model), top-1 and top-k agreement; both read the same batch, nothing is stored.

    Raises:
        EvalError: the two checkpoints do not share a tokenizer and a vocabulary.
    """
    section, subject, baseline = ask.section, ask.subject, ask.baseline
    if baseline is None:
        raise EvalError(f"agreement: {subject.name!r} has no baseline to agree with")
    _check_same_tokens(subject, baseline, section.top_k)
    contexts = pack(ask.text, subject.tokenizer, subject.bos, section.length, section.contexts)
    kl, same, shared = _compare(ask, baseline, contexts.ids)
    past, k = section.past or section.length // 2, section.top_k
    metrics = [
        _kl("kl", "KL from the baseline", kl, contexts),
        _share("top1", "Top-1 agreement", same, contexts),
        _share(f"top{k}", f"Top-{k} agreement", shared, contexts, headline=False),
        _kl(
            f"kl@{past}+",
            f"KL from the baseline, positions {past} and later",
            kl[:, past - 1 :],
            contexts,
            False,
        ),
    ]
    rows = [values.mean(1).tolist() for values in (kl, same, shared)]
    samples = [
        {"context": row, "document": document, "kl": a, "top1": b, f"top{k}": c}
        for row, (document, a, b, c) in enumerate(zip(contexts.documents, *rows, strict=True))
    ]
    return Outcome(
        metrics=metrics,
        detail={"length": section.length, "curve": _curve(kl, contexts)},
        samples=samples,
        warnings=contexts.warnings(f"{subject.name}: agreement"),
        read=contexts.digest,
    )


def _compare(ask: Ask, baseline: Any, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL, top-1 and top-k agreement of every token but the first: ``[C, T - 1]`` each, on the CPU."""
    subject = ask.subject
    rows = rows_at_a_time(ids.shape[1], subject.vocabulary, ask.batch_size)
    found: list[list[Tensor]] = [[], [], []]
    for batch in ids.split(rows):
        made = ask.journal.part(partial(_compare_batch, subject, baseline, batch, ask.section.top_k))
        for values, rows_of_one in zip(found, made, strict=True):
            values.append(torch.tensor(rows_of_one))
        ask.tick(len(batch))
    kl, same, shared = (torch.cat(values) for values in found)
    return kl, same, shared


def _compare_batch(subject: Loaded, baseline: Loaded, batch: Tensor, top_k: int) -> list[list[list[float]]]:
    theirs = next_token_logits(baseline.model, batch.to(baseline.device))
    ours = next_token_logits(subject.model, batch.to(subject.device))
    parts = [
        divergence(reference, logits, top_k) for (_, reference), (_, logits) in zip(theirs, ours, strict=True)
    ]
    return [torch.cat(stretches, dim=1).float().tolist() for stretches in zip(*parts, strict=True)]


def _kl(key: str, label: str, values: Tensor, contexts: Contexts, headline: bool = True) -> Metric:
    """Mean of a divergence."""
    samples = contexts.samples(values.double().mean(1).tolist())
    return mean_kl(key, label, samples, contexts.counted(values.shape[1]), headline)


def _share(key: str, label: str, values: Tensor, contexts: Contexts, headline: bool = True) -> Metric:
    """Mean of a share, in percent."""
    samples = contexts.samples((100 * values.double().mean(1)).tolist())
    counted = contexts.counted(values.shape[1])
    return mean_metric(key, label, samples, counted, better="higher", unit="%", headline=headline)


def _curve(kl: Tensor, contexts: Contexts) -> list[dict[str, Any]]:
    """KL in buckets of positions that double in size."""
    points = []
    for first, end in pairwise(position_buckets(kl.shape[1] + 1)):
        metric = _kl("", "", kl[:, first - 1 : end - 1], contexts)
        points.append({"first": first, "last": end - 1, "value": metric.value, "stderr": metric.stderr})
    return points


def _check_same_tokens(subject: Any, baseline: Any, k: int) -> None:
    """Equal vocabularies, token by token, of more than ``k`` tokens."""
    mine, theirs = subject.vocabulary, baseline.vocabulary
    if mine != theirs:
        raise EvalError(
            f"agreement: {subject.name!r} scores {mine} tokens and {baseline.name!r} {theirs}: KL and top-1 "
            "need one vocabulary; leave the section out or compare checkpoints of one family"
        )
    if subject.tokenizer.get_vocab() != baseline.tokenizer.get_vocab():
        raise EvalError(
            f"agreement: {subject.name!r} and {baseline.name!r} have different tokenizers: KL and top-1 "
            "need the same tokens; leave the section out or compare checkpoints of one family"
        )
    if k > mine:
        raise EvalError(f"agreement.top_k={k} is more than the {mine} tokens of {subject.name!r}")


def check(checkpoint: Any, section: Any) -> None:
    """Refuse contexts longer than the model's positions, and an empty bucket."""
    checkpoint.check_length(section.length, "agreement.length")
    if section.past is not None and not 2 <= section.past < section.length:
        raise EvalError(
            f"agreement.past={section.past} must lie between 2 and length - 1 = {section.length - 1}"
        )


AGREEMENT = Measure(
    name="agreement",
    how=(
        "KL(baseline || model) in nats per token, the share of tokens whose most likely successor is the "
        "same, and the share of the baseline's k most likely ones that are among the model's, on the same "
        "contexts. The standard errors are those of the contexts, joined by document."
    ),
    run=run,
    check=check,
    keys=("kl", "kl@*", "top*"),
    work=lambda section: section.contexts,
    uses_baseline=True,
    compares_only=True,
)
