"""Which combination to choose: of all that meet a workload's limits, the one that takes least away."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from convert.budget.combination import Combination, as_it_is, every
from convert.budget.costs import Costs, count_costs, decode_bound, total_bytes
from convert.budget.gpu import Gpu
from convert.budget.model import Model
from convert.budget.risks import Risk, weigh_risks
from convert.errors import ConvertError, unknown
from convert.footprint import kv_bytes


@dataclass(frozen=True)
class Workload:
    """What a model is served for.

    Attributes:
        name: What it is called.
        contexts: Shortest and longest sequences, tokens.
        latency: Whether a decode step has a limit.
        summary: In words.
    """

    name: str
    contexts: tuple[int, int]
    latency: bool
    summary: str


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("chat", (2048, 8192), True, "2k to 8k tokens, strict latency"),
        Workload("documents", (65536, 131072), False, "64k to 128k tokens, one GPU"),
    )
}
BOTH = "both"


@dataclass(frozen=True)
class Recommendation:
    """What to do for one workload.

    Attributes:
        workload: Its name.
        costs: Of what is recommended, at each workload's longest context; None where nothing meets them.
        risks: Of what is recommended.
        reason: Why, in a sentence or two.
        rejected: What was not chosen, and by which number.
    """

    workload: str
    costs: tuple[Costs, ...] | None
    risks: tuple[Risk, ...]
    reason: str
    rejected: tuple[str, ...]


def find_workloads(name: str) -> tuple[Workload, ...]:
    """The workloads of a name.

    Raises:
        ConvertError: there is none.
    """
    if name == BOTH:
        return tuple(WORKLOADS.values())
    if name not in WORKLOADS:
        raise unknown("workload", name, [*WORKLOADS, BOTH])
    return (WORKLOADS[name],)


def recommend(model: Model, gpu: Gpu, name: str, batch: int, decode_slo_s: float | None) -> Recommendation:
    """Choose the least destructive combination that meets the limits of a workload, or of all at once.

    Args:
        model: The model.
        gpu: Where it is served.
        name: ``chat``, ``documents`` or ``both``.
        batch: Sequences at once.
        decode_slo_s: Longest decode step in seconds for workloads with a latency.

    Raises:
        ConvertError: a latency is asked for, and the GPU's bandwidth is not known.
    """
    workloads = find_workloads(name)
    if decode_slo_s is not None and gpu.bandwidth is None and any(load.latency for load in workloads):
        raise ConvertError("decode_slo needs the GPU's bandwidth (give --bandwidth, or a GPU by name)")

    @cache
    def failure(combination: Combination) -> str | None:
        return find_failure(model, gpu, workloads, combination, batch, decode_slo_s)

    longest = max(load.contexts[1] for load in workloads)

    def rank(combination: Combination) -> tuple[int, int, int, int, float]:
        levels = [risk.level for risk in weigh_risks(model, combination, longest)]
        changed = combination.mechanisms(model)
        # Of equal risk, what needs no training goes first.
        trained = len(set(changed) - {"cache"})
        taken = _taken(model, combination, longest)
        return max(levels, default=0), sum(levels), trained, len(changed), taken

    able = sorted((one for one in every(model) if failure(one) is None), key=rank)
    rejected = [
        f"{one.name(model)}: {why}" for one in _alternatives(model) if (why := failure(one)) is not None
    ]
    if not able:
        reason = (
            "nothing that only makes the cache smaller meets the limits; quantize the weights, take a larger "
            "GPU or a smaller batch"
        )
        return Recommendation(name, None, (), reason, tuple(rejected))
    chosen = able[0]
    fewer = [
        f"{one.name(model)}: meets the limits too, but takes more away ({_worst(model, one, longest)})"
        for one in _alternatives(model)
        if one != chosen and failure(one) is None and rank(one) > rank(chosen)
    ]
    costs = tuple(count_costs(model, gpu, chosen, load.contexts[1], batch) for load in workloads)
    risks = weigh_risks(model, chosen, longest)
    reason = _reason(model, chosen, rejected, len(able))
    return Recommendation(name, costs, risks, reason, (*rejected, *fewer))


def find_failure(
    model: Model,
    gpu: Gpu,
    workloads: Sequence[Workload],
    combination: Combination,
    batch: int,
    decode_slo_s: float | None,
) -> str | None:
    """Say by which number a combination misses the limits of workloads; None: it meets them."""
    for load in workloads:
        tokens = load.contexts[1]
        short = total_bytes(model, combination, tokens, batch) - gpu.memory
        if short > 0:
            return f"{short / 2**30:.1f} GiB too much at {tokens} tokens"
        step_s = decode_bound(model, gpu, combination, tokens, batch)
        if load.latency and decode_slo_s is not None and step_s is not None and step_s > decode_slo_s:
            return f"a step takes at least {1e3 * step_s:.1f} ms at {tokens} tokens"
    return None


def _taken(model: Model, combination: Combination, context: int) -> float:
    """Share of the source's cache bytes that is gone: among equal risks, the least."""
    left, whole = (kv_bytes(one.cache_shape(model), context) for one in (combination, as_it_is(model)))
    return 1 - left / whole


def _alternatives(model: Model) -> list[Combination]:
    """What people ask about: as it is, and each mechanism alone, a window also with global layers."""
    single = [one for one in every(model) if len(one.mechanisms(model)) < 2]
    return [
        one
        for one in single
        if one.window is None or (one.window == 4096 and one.global_layers in ("none", "every:4"))
    ]


def _worst(model: Model, combination: Combination, context: int) -> str:
    risks = weigh_risks(model, combination, context)
    return max(risks, key=lambda risk: risk.level).what if risks else "more bytes than needed"


def _reason(model: Model, chosen: Combination, rejected: list[str], able: int) -> str:
    if chosen == as_it_is(model):
        return "The model meets the limits as it is; nothing needs to be converted."
    first = rejected[0] if rejected else ""
    return (
        f"As it is, the model does not meet the limits ({first.partition(': ')[2]}). Of the {able} "
        f"combinations that do, {chosen.name(model)} takes least away."
    )
