"""Which combination to choose: of all that meet a workload's limits, the one that takes least away."""

from dataclasses import dataclass

from convert.budget.combination import Combination, as_it_is, every
from convert.budget.costs import Costs, count_costs
from convert.budget.gpu import Gpu
from convert.budget.model import Model
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
EASY_RATIO = 4
"""Heads per group up to which uptraining on 5% of the pretraining text regains the quality (GQA, arXiv
2305.13245, figure 3: 8 groups of the 64 heads of T5-XXL are near the original, one is not)."""


@dataclass(frozen=True)
class Risk:
    """What a mechanism may cost in quality.

    Attributes:
        mechanism: ``heads`` or ``window``.
        level: 0 nothing, 1 small and regained by a short training, 2 needs training and a look at the suites
            named, 3 something is lost for good.
        what: In words.
        watch: The measure of ``python -m eval`` that would show it.
    """

    mechanism: str
    level: int
    what: str
    watch: str


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


def weigh_risks(model: Model, combination: Combination, context: int) -> tuple[Risk, ...]:
    """What a combination may cost at a context: one entry per mechanism that changes anything there."""
    risks = []
    ratio = model.kv_heads // combination.kv_heads
    if ratio > 1 and combination.kv_heads == 1:
        what = "all query heads share one key and value: head diversity is gone"
        risks.append(Risk("heads", 3, what, "perplexity, tasks, needle"))
    elif ratio > 1:
        what = f"{ratio} heads share one key and value: less head diversity"
        risks.append(Risk("heads", 1 if ratio <= EASY_RATIO else 2, what, "perplexity, tasks"))
    window = combination.window
    if window is not None and window < context:
        if combination.reach(model) is None:
            what = f"only the global layers ({combination.global_layers}) see past {window} tokens"
            risks.append(Risk("window", 2, f"{what}: weaker long-range dependencies", "needle"))
        else:
            what = f"nothing reads a token more than {window} back directly"
            risks.append(
                Risk("window", 3, f"{what}: facts there are lost, and perplexity does not show it", "needle")
            )
    return tuple(risks)


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

    def failure(combination: Combination) -> str | None:
        for load in workloads:
            costs = count_costs(model, gpu, combination, load.contexts[1], batch)
            if costs.total > gpu.memory:
                short = (costs.total - gpu.memory) / 2**30
                return f"{short:.1f} GiB too much at {load.contexts[1]} tokens"
            if load.latency and decode_slo_s is not None and costs.decode_s and costs.decode_s > decode_slo_s:
                return f"a step takes at least {1e3 * costs.decode_s:.1f} ms at {load.contexts[1]} tokens"
        return None

    longest = max(load.contexts[1] for load in workloads)

    def rank(combination: Combination) -> tuple[int, int, int, float]:
        levels = [risk.level for risk in weigh_risks(model, combination, longest)]
        changes = (combination.kv_heads != model.kv_heads) + (combination.window is not None)
        return max(levels, default=0), sum(levels), changes, _taken(model, combination, longest)

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


def _taken(model: Model, combination: Combination, context: int) -> float:
    """Share of the source's cache bytes that is gone: among equal risks, the least."""
    return 1 - kv_bytes(combination.cache(model), context) / kv_bytes(as_it_is(model).cache(model), context)


def _alternatives(model: Model) -> list[Combination]:
    """What people ask about: as it is, each number of heads alone, a window alone and with global layers."""
    alone = [one for one in every(model) if one.window is None]
    windows = [one for one in every(model) if one.window == 4096 and one.kv_heads == model.kv_heads]
    return [*alone, *(one for one in windows if one.global_layers in ("none", "every:4"))]


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
