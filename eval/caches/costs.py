"""Bytes that a cache holds and allocates on the way, and the time of a decode step."""

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from eval.caches.allocations import allocated
from eval.caches.contenders import Contender
from eval.checkpoint import Loaded
from eval.memory import held_bytes
from eval.results import Metric
from eval.speed.timing import Clock, Work, in_turns
from eval.stats import median, standard_error

DECODED = 4
"""Tokens that are fed one by one after all others, as in generation."""
LIMIT_S = 30.0
"""Seconds for the timed steps of one contender."""


@torch.inference_mode()
def measure_bytes(loaded: Loaded, contender: Contender, ids: Tensor) -> list[Metric]:
    """What the cache of one sequence holds, by its formula, and the most that was allocated meanwhile.

    Args:
        ids: ``[1, T]``: at first all but ``DECODED`` at once, then one by one.

    Returns:
        Bytes held; by formula; at the peak of the first pass and of the decoded tokens, with all that was
        allocated since the cache was empty: what it holds, activations and logits, not the weights.
    """
    length, device = ids.shape[1], loaded.device
    # What others left behind must not be given up, and counted, while this one works.
    gc.collect()
    caches = [contender.make()]

    def read(part: Tensor) -> Callable[[], object]:
        return lambda: loaded.model(
            input_ids=part, past_key_values=caches[0], use_cache=True, logits_to_keep=1
        )

    first = allocated(read(ids[:, :-DECODED]), device)
    steps = [allocated(read(token), device) for token in ids[:, -DECODED:].split(1, dim=1)]
    before, peaks = first.kept, []
    for step in steps:
        peaks.append(before + step.peak)
        before += step.kept
    held = -allocated(caches.clear, device).kept if contender.peer else held_bytes(caches[0])
    found = (
        ("kv_bytes", "KV cache, held", held),
        ("kv_formula", "KV cache, by formula", contender.nbytes(length)),
        ("peak_prefill", "Peak of the first pass", first.peak),
        ("peak_decode", "Peak of a decode step", max(peaks)),
    )
    return [
        _metric(f"{key}@{length}", f"{label}, {length:,} tokens", "bytes", value, "exact count")
        for key, label, value in found
    ]


@torch.inference_mode()
def measure_speed(
    loaded: Loaded, contenders: Sequence[Contender], ids: Tensor, runs: int
) -> dict[str, tuple[Metric, list[float]]]:
    """Milliseconds of a decode step after ``T`` tokens of one sequence, all contenders in turns.

    Args:
        contenders: The baseline first.
        ids: ``[1, T]``.
        runs: Steps of each, at most.

    Returns:
        By name the metric, and the time of every step.
    """
    length = ids.shape[1]
    works: dict[str, Work] = {}
    for contender in contenders:
        cache = contender.make()
        loaded.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        works[contender.name] = _step(loaded, cache, ids[:, -1:])
    times = in_turns(Clock(loaded.device), works, runs, LIMIT_S, cold=False)
    return {name: (_timed(length, times, name), times[name]) for name in works}


def _step(loaded: Loaded, cache: Any, token: Tensor) -> Work:
    return lambda: loaded.model(input_ids=token, past_key_values=cache, use_cache=True)


def _timed(length: int, times: Mapping[str, list[float]], name: str) -> Metric:
    baseline = next(iter(times))
    # Who takes long takes part in fewer turns.
    turns = zip(times[name], times[baseline], strict=False)
    ratios = [] if name == baseline else [own / other for own, other in turns]
    metric = _metric(
        f"decode@{length}", f"Decode step after {length:,} tokens", "ms", median(times[name]), "runs"
    )
    changes = {
        "stderr": standard_error(times[name]),
        "n": len(times[name]),
        "paired_ratio": median(ratios) if ratios else None,
        "paired_ratio_stderr": standard_error(ratios),
    }
    return metric.model_copy(update=changes)


def _metric(key: str, label: str, unit: str, value: float | None, n_of: str) -> Metric:
    return Metric(key=key, label=label, value=value, n=1, n_of=n_of, unit=unit, better="lower")
