"""How far a checkpoint's next-token distribution is from the baseline's, on the same tokens."""

from typing import Any

import torch

from eval.errors import EvalError
from eval.logits import divergence, next_token_logits, rows_at_a_time
from eval.measures.base import Ask, Measure
from eval.results import Metric, Outcome
from eval.stats import mean, standard_error
from eval.text import pack


def run(ask: Ask) -> Outcome:
    """KL(baseline || model) and top-1 agreement; both models read the same batch, nothing is stored.

    Raises:
        EvalError: the two checkpoints do not share a tokenizer and a vocabulary.
    """
    section, subject, baseline = ask.section, ask.subject, ask.baseline
    if baseline is None:
        raise EvalError(f"agreement: {subject.name!r} has no baseline to agree with")
    _check_same_tokens(subject, baseline)
    ids = pack(ask.text, subject.tokenizer, subject.bos, section.length, section.contexts)
    rows = rows_at_a_time(ids.shape[1], _vocabulary(subject), ask.batch_size)
    kl_rows, same_rows = [], []
    for batch in ids.split(rows):
        reference = next_token_logits(baseline.model, batch.to(baseline.device))
        logits = next_token_logits(subject.model, batch.to(subject.device))
        kl, same = divergence(reference, logits)
        kl_rows.append(kl.mean(1).cpu())
        same_rows.append(same.mean(1).cpu())
        ask.tick(len(batch))
    kl_list, same_list = torch.cat(kl_rows).tolist(), torch.cat(same_rows).tolist()
    n_of = f"contexts of {ids.shape[1] - 1} tokens"
    return Outcome(
        metrics=[
            Metric(
                key="kl",
                label="KL from the baseline",
                unit="nats/token",
                value=max(0.0, mean(kl_list)),
                stderr=standard_error(kl_list),
                n=len(kl_list),
                n_of=n_of,
                better="lower",
                per_sample=kl_list,
            ),
            Metric(
                key="top1",
                label="Top-1 agreement",
                unit="%",
                value=100 * mean(same_list),
                stderr=None if len(same_list) < 2 else 100 * (standard_error(same_list) or 0.0),
                n=len(same_list),
                n_of=n_of,
                better="higher",
                per_sample=[100 * value for value in same_list],
            ),
        ],
        samples=[
            {"context": row, "kl": kl, "top1": same}
            for row, (kl, same) in enumerate(zip(kl_list, same_list, strict=True))
        ],
    )


def _vocabulary(loaded: Any) -> int:
    return int(loaded.model.config.get_text_config().vocab_size)


def _check_same_tokens(subject: Any, baseline: Any) -> None:
    """Equal vocabularies, token by token."""
    mine, theirs = _vocabulary(subject), _vocabulary(baseline)
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


def check(checkpoint: Any, section: Any) -> None:
    """Refuse contexts longer than the model's positions."""
    checkpoint.check_length(section.length, "agreement.length")


AGREEMENT = Measure(
    name="agreement",
    how=(
        "KL(baseline || model) in nats per token and the share of tokens whose most likely successor is "
        "the same, on the same contexts. The contexts are the samples of the standard error."
    ),
    run=run,
    check=check,
    work=lambda section: section.contexts,
    uses_baseline=True,
    compares_only=True,
)
