"""Whether a model with its cache says what it says without one, and whether calls leave anything behind."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor

from eval.contexts import Contexts, pack
from eval.errors import EvalError
from eval.generation import continue_greedily
from eval.logits import divergence
from eval.measures.base import Ask, Measure
from eval.metrics import mean_kl, mean_metric
from eval.results import Metric, Outcome
from eval.stats import mean, rate_error, wilson

NOTICEABLE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 2e-2}
"""KL in nats per token from which a cache is said to differ: what rounding makes stays below it."""


def run(ask: Ask) -> Outcome:
    """Generate from every prompt alone, then again in the opposite order; then read it all in one pass."""
    section, subject = ask.section, ask.subject
    contexts = pack(
        ask.text, subject.tokenizer, subject.bos, section.length - section.decode_tokens, section.samples
    )
    first = []
    for prompt in contexts.ids.split(1):
        first.append(_generate(ask, prompt))
    again = [_generate(ask, prompt)[0] for prompt in reversed(contexts.ids.split(1))][::-1]
    compared = [
        _against_own_pass(ask, prompt, *generated)
        for prompt, generated in zip(contexts.ids.split(1), first, strict=True)
    ]
    kl, top1 = ([pair[which] for pair in compared] for which in (0, 1))
    same = [torch.equal(tokens, repeated) for (tokens, _), repeated in zip(first, again, strict=True)]
    samples = [
        {
            "context": row,
            "kl": kl[row],
            "top1": top1[row],
            "same_again": same[row],
            "answer": subject.tokenizer.decode(first[row][0][0]),
        }
        for row in range(len(kl))
    ]
    return Outcome(
        metrics=_metrics(kl, top1, same, contexts, section.decode_tokens),
        samples=samples,
        warnings=_warnings(ask, mean(kl), same),
        read=contexts.digest,
    )


def _generate(ask: Ask, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens ``[1, N]`` and the logits ``[1, N, V]`` that they were chosen by, on the CPU."""
    tokens, logits = continue_greedily(ask.subject, prompt, ask.section.decode_tokens, to_the_end=True)
    ask.tick(1)
    return tokens.cpu(), torch.stack(list(logits), dim=1).cpu()


@torch.inference_mode()
def _against_own_pass(ask: Ask, prompt: Tensor, tokens: Tensor, logits: Tensor) -> tuple[float, float]:
    """Mean KL(pass without a cache || cached), and the share of tokens that the pass would choose too."""
    model, count = ask.subject.model, tokens.shape[1]
    ids = torch.cat([prompt, tokens[:, :-1]], dim=1).to(ask.subject.device)
    # The logits of a whole long prompt may not fit.
    keeps = "logits_to_keep" in signature(model.forward).parameters
    passed = model(input_ids=ids, use_cache=False, **({"logits_to_keep": count} if keeps else {}))
    kl, same, _ = divergence(passed.logits[:, -count:].cpu(), logits, k=1)
    return float(kl.double().mean()), float(same.mean())


def _metrics(
    kl: list[float], top1: list[float], same: list[bool], contexts: Contexts, tokens: int
) -> list[Metric]:
    counted = f"answers of {tokens} tokens"
    apart, agreeing = contexts.samples(kl), contexts.samples([100 * value for value in top1])
    low, high = wilson(sum(same), len(same))
    return [
        mean_kl("cache_kl", "KL of cached generation from the own pass", apart, counted, headline=False),
        mean_metric(
            "cache_top1",
            "Cached choices that the own pass makes too",
            agreeing,
            counted,
            better="higher",
            unit="%",
            headline=False,
        ),
        Metric(
            key="same_again",
            label="Answers that are the same in another order",
            unit="%",
            value=100 * sum(same) / len(same),
            stderr=100 * rate_error(sum(same), len(same)),
            interval=(100 * low, 100 * high),
            n=len(same),
            n_of=counted,
            better="higher",
            headline=False,
            per_sample=[100.0 * each for each in same],
        ),
    ]


def _warnings(ask: Ask, kl: float, same: list[bool]) -> list[str]:
    """What must not be: one's own cache at odds with oneself; and where the ring never came around."""
    name, shape, length = ask.subject.name, ask.subject.checkpoint.shape, ask.section.length
    warnings = []
    if kl > NOTICEABLE[ask.subject.dtype]:
        warnings.append(
            f"{name}: what it generates through its cache is {kl:.2g} nats per token away from its own pass "
            "without one: its cache loses something, or is wrong"
        )
    if not all(same):
        warnings.append(
            f"{name}: {same.count(False)} of {len(same)} answers changed with the order of the prompts: "
            "something of one call is left in the next"
        )
    if shape.window is not None and length <= shape.window + shape.sinks:
        warnings.append(
            f"{name}: {length} tokens never fill its window of {shape.window}, so consistency says nothing "
            "about what it forgets: give longer --lengths"
        )
    return warnings


def check(checkpoint: Any, section: Any) -> None:
    """Refuse more than the model's positions, and prompts of nothing."""
    checkpoint.check_length(section.length, "consistency.length")
    if section.decode_tokens > section.length - 4:
        raise EvalError(
            f"consistency.decode_tokens={section.decode_tokens} leaves no prompt in length={section.length}: "
            f"at most {section.length - 4}"
        )


CONSISTENCY = Measure(
    name="consistency",
    how=(
        "greedy generation through the model's own cache, one prompt at a time, against its own pass without "
        "a cache over the same tokens; and the same prompts once more in the opposite order. The standard "
        "errors are those of the prompts."
    ),
    run=run,
    check=check,
    keys=("cache_kl", "cache_top1", "same_again"),
    work=lambda section: 2 * section.samples,
)
