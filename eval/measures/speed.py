"""Prefill and decode times of ``generate``, interleaved with the baseline's."""

import time
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from eval.checkpoint import Loaded
from eval.generation import generate_greedily
from eval.measures.base import Ask, Measure
from eval.results import Better, Metric, Outcome
from eval.stats import median, standard_error

NOISY = 0.1


class _Clock(StoppingCriteria):
    """Notes the time after every generated token, the device's work included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times_s = [self.now()]

    def now(self) -> float:
        """Seconds, once the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Never stops."""
        self.times_s.append(self.now())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def run(ask: Ask) -> Outcome:
    """Time both checkpoints in turns, after one run each to warm up."""
    section = ask.section
    models = [ask.subject] if ask.baseline is None else [ask.baseline, ask.subject]
    prefill: dict[str, list[float]] = {loaded.name: [] for loaded in models}
    decode: dict[str, list[float]] = {loaded.name: [] for loaded in models}
    for repeat in range(section.repeats + 1):
        for loaded in models:
            prefill_s, decode_s = _time_once(loaded, section)
            if repeat > 0:
                prefill[loaded.name].append(section.batch * section.length / prefill_s)
                decode[loaded.name].append(1000 * decode_s)
        ask.tick(1)
    mine = ask.subject.name
    other = None if ask.baseline is None else ask.baseline.name
    metrics = [
        _metric("prefill", f"Prefill of {section.length} tokens", "tokens/s", "higher", prefill, mine, other),
        _metric("decode", f"Decode after {section.length} tokens", "ms/token", "lower", decode, mine, other),
    ]
    samples = [
        {"repeat": index, "prefill_tokens_per_s": a, "decode_ms_per_token": b}
        for index, (a, b) in enumerate(zip(prefill[mine], decode[mine], strict=True))
    ]
    detail = {"length": section.length, "batch": section.batch, "decode_tokens": section.decode_tokens}
    warnings = []
    noise = max((metric.stderr or 0) / metric.value for metric in metrics if metric.value)
    if noise > NOISY:
        warnings.append(
            f"{mine}: its timings have standard errors of up to {noise:.0%}: the machine was busy; speeds "
            "were timed in turns with the baseline, so trust their factors more than their values"
        )
    return Outcome(metrics=metrics, detail=detail, samples=samples, warnings=warnings)


def _time_once(loaded: Loaded, section: Any) -> tuple[float, float]:
    """Seconds until the first token, and mean seconds per token after it."""
    generator = torch.Generator().manual_seed(section.length)
    ids = torch.randint(loaded.vocabulary, (section.batch, section.length), generator=generator)
    ids = ids.to(loaded.device)
    clock = _Clock(loaded.device)
    generate_greedily(loaded, ids, section.decode_tokens + 1, criteria=StoppingCriteriaList([clock]))
    times_s = clock.times_s
    return times_s[1] - times_s[0], (times_s[-1] - times_s[1]) / (len(times_s) - 2)


def _metric(
    key: str,
    label: str,
    unit: str,
    better: Better,
    runs: dict[str, list[float]],
    mine: str,
    other: str | None,
) -> Metric:
    """Medians over the runs, of the value and of its ratio to the baseline's in the same turn."""
    values = runs[mine]
    ratios = [] if other is None else [a / b for a, b in zip(values, runs[other], strict=True)]
    return Metric(
        key=key,
        label=label,
        value=median(values),
        stderr=standard_error(values),
        n=len(values),
        n_of="runs",
        unit=unit,
        better=better,
        paired_ratio=median(ratios) if ratios else None,
        paired_ratio_stderr=standard_error(ratios),
    )


def check(checkpoint: Any, section: Any) -> None:
    """Refuse prompts that leave no positions for the generated tokens."""
    checkpoint.check_length(section.length + section.decode_tokens + 1, "speed.length + decode_tokens + 1")


SPEED = Measure(
    name="speed",
    how=(
        "median over runs of generate on random tokens, after one warm-up, in turns with the baseline. "
        "Prefill is the time to the first token; decode is the mean step after it. The standard error is "
        "over the runs."
    ),
    run=run,
    check=check,
    keys=("prefill", "decode"),
    work=lambda section: section.repeats + 1,
    uses_baseline=True,
    uses_text=False,
    timed=True,
)
