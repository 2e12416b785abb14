"""``--memo``: the recommendation as a page for the people who must approve it."""

from collections.abc import Sequence
from dataclasses import replace

from convert.budget.combination import LOSSY, ROUNDED, Combination, as_it_is, serves
from convert.budget.costs import Costs, count_costs, visible_pairs
from convert.budget.gpu import Gpu
from convert.budget.model import Model
from convert.budget.recommend import WORKLOADS, Recommendation, find_failure, find_workloads
from convert.budget.wording import HEADER, advice_lines, describe_gpu, describe_model, table_rows
from convert.footprint import kv_bytes, kv_growth
from convert.quantities import format_value

HELPS = {
    "heads": "uptraining with the original as teacher: hours of a GPU, and a checkpoint to be tested anew",
    "window": "more global layers: each keeps its full cache; uptraining on long documents",
    "cache": "more bits, a larger `residual` or budget: bytes; nothing is trained",
}
"""What makes up for each mechanism, and its price."""


def write_memo(
    model: Model,
    gpu: Gpu,
    batch: int,
    decode_slo_s: float | None,
    costs: Sequence[Costs],
    advice: Sequence[Recommendation],
    plot: str,
) -> str:
    """Write the memo as Markdown.

    Args:
        model: The model.
        gpu: Where it is to be served.
        batch: Sequences at once.
        decode_slo_s: Longest decode step in seconds for workloads with a latency.
        costs: The table's combinations.
        advice: What is recommended, workload by workload.
        plot: File name of the plot beside it.
    """
    parts = [
        f"# Serving {model.name or 'this model'} with a smaller cache",
        f"{describe_model(model)}. {describe_gpu(gpu)}. Batch {batch}.",
        "## What attention costs here",
        *_attention(model, gpu, batch),
        "## Recommendation",
        *(line for each in advice for line in ("\n".join(advice_lines(model, each)),)),
        "## What this changes, and what it does not",
        *_changes(model, advice),
        "## What compression alone would bring",
        *_compression(model, gpu, batch, decode_slo_s, advice),
        "## Considered and rejected",
        "\n".join(f"- {line}" for line in [*_rejected(advice), _linear_attention(model)]),
        "## Risks, who watches them, and what helps",
        _risks(advice),
        "## All combinations",
        _table(model, costs),
        f"![memory against context]({plot})",
        "Bounds, not timings: bytes over bandwidth and operations over the data sheet's rate. Activations "
        "are an estimate for prompts that are run in chunks of 2,048 tokens. Measure with `python -m eval`.",
    ]
    return "\n\n".join(parts) + "\n"


def _attention(model: Model, gpu: Gpu, batch: int) -> list[str]:
    lines = [
        "| | " + " | ".join(f"{load.name}, {load.contexts[1]:,} tokens" for load in WORKLOADS.values()) + " |"
    ]
    lines.append("|---|" + "---:|" * len(WORKLOADS))
    plain = [count_costs(model, gpu, as_it_is(model), load.contexts[1], batch) for load in WORKLOADS.values()]
    pairs = [
        sum(visible_pairs(own, load.contexts[1]) for own in model.windows) for load in WORKLOADS.values()
    ]
    flops = [4 * model.heads * model.head_dim * count for count in pairs]
    linear = [2 * model.parameters * load.contexts[1] for load in WORKLOADS.values()]
    rows = {
        "softmax over QK^T, operations of a prefill": [f"{count:.2e}" for count in flops],
        "as a share of the prefill": [f"{a / (a + b):.0%}" for a, b in zip(flops, linear, strict=True)],
        "cache per request": [format_value(cost.per_request, "bytes") for cost in plain],
        "cache bytes read per decoded token": [format_value(cost.per_request, "bytes") for cost in plain],
        "weights read per step, for the whole batch": [format_value(cost.weights, "bytes") for cost in plain],
    }
    lines += [f"| {label} | " + " | ".join(cells) + " |" for label, cells in rows.items()]
    return [
        "Every query is compared with every key before it: the causal mask halves the products and leaves "
        "them quadratic in the length. While decoding, one query reads all keys and values of its sequence, "
        "so a step waits for memory and not for arithmetic.",
        "\n".join(lines),
    ]


def _changes(model: Model, advice: Sequence[Recommendation]) -> list[str]:
    chosen = {each.costs[0].combination for each in advice if each.costs}
    lines = []
    for one in sorted(chosen, key=lambda each: each.name(model)):
        if one == as_it_is(model):
            continue
        lines.append(f"**{one.name(model)}**")
        if one.kv_heads != model.kv_heads:
            lines.append(
                f"- Keys and values: {model.kv_heads // one.kv_heads} of the {model.kv_heads} heads share "
                f"one. The {model.heads} query heads, the attention pattern and every layer's reach stay."
            )
        if one.window is not None:
            kept = sum(slots is None for slots in one.slots(model))
            lines.append(
                f"- Attention pattern: {model.layers - kept} of {model.layers} layers see the last "
                f"{one.window} tokens and the first {one.sinks}; {kept} keep seeing everything."
            )
        if not one.kept.plain:
            lines.append(
                f"- Stored tokens: {_stored(model, one)}. Weights, heads and every layer's reach stay."
            )
    return ["\n".join(lines)] if lines else ["Nothing is converted."]


def _stored(model: Model, one: Combination) -> str:
    kinds = {layer.slots is None for _, layer in one.cache_shape(model).layers()}
    chosen = {True: ("full attention", one.kept.global_layers), False: ("a window", one.kept.window_layers)}
    return "; ".join(
        f"`{kept.spec}` in layers with {title}, {kept.policy.summary}"
        for whole, (title, kept) in chosen.items()
        if whole in kinds
    )


def _rejected(advice: Sequence[Recommendation]) -> list[str]:
    return [f"{each.workload}: {line}" for each in advice for line in each.rejected]


def _compression(
    model: Model, gpu: Gpu, batch: int, decode_slo_s: float | None, advice: Sequence[Recommendation]
) -> list[str]:
    """What each cache policy makes of the model as it is, and whether that meets the limits."""
    if not serves(model):
        return ["Nothing: no class of Headroom can compress this model's cache without giving it a window."]
    longest = max(load.contexts[1] for load in WORKLOADS.values())
    plain = as_it_is(model)
    lines = [
        f"| cache | per request of {longest:,} tokens | of that as it is | grows with the length | "
        + " | ".join(each.workload for each in advice)
        + " |",
        "|---|---:|---:|---|" + "---|" * len(advice),
    ]
    whole = kv_bytes(plain.cache_shape(model), longest)
    for policy in (*ROUNDED, *LOSSY):
        alone = replace(plain, cache=policy)
        shape = alone.cache_shape(model)
        held = kv_bytes(shape, longest)
        cells = [
            f"`{policy}`",
            format_value(held, "bytes"),
            f"{held / whole:.1%}",
            "yes" if kv_growth(shape) else "no",
            *(_verdict(model, gpu, batch, decode_slo_s, each, alone) for each in advice),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [
        "Tokens are stored smaller, and the weights stay as they are: nothing has to be trained. "
        "`patches.make_cache` tries it on the model that is there, and `python -m eval cache` measures each "
        "beside the others.",
        "\n".join(lines),
    ]


def _verdict(
    model: Model,
    gpu: Gpu,
    batch: int,
    decode_slo_s: float | None,
    advice: Recommendation,
    alone: Combination,
) -> str:
    if advice.costs is not None and advice.costs[0].combination == alone:
        return "recommended"
    missed = find_failure(model, gpu, find_workloads(advice.workload), alone, batch, decode_slo_s)
    if missed is not None:
        return f"rejected: {missed}"
    return "meets the limits, but what is recommended takes less away"


def _linear_attention(model: Model) -> str:
    state = model.layers * model.heads * model.head_dim * (model.head_dim + 1) * model.element_bytes
    return (
        f"linear attention: its state would be {format_value(state, 'bytes')} at any length, but no "
        "checkpoint with softmax turns into one without training at the scale of pretraining"
    )


def _risks(advice: Sequence[Recommendation]) -> str:
    lines = ["| workload | risk | watched by | what helps, and its price |", "|---|---|---|---|"]
    for each in advice:
        for risk in each.risks:
            lines.append(f"| {each.workload} | {risk.what} | {risk.watch} | {HELPS[risk.mechanism]} |")
    return "\n".join(lines) if len(lines) > 2 else "None: nothing is taken away."


def _table(model: Model, costs: Sequence[Costs]) -> str:
    lines = ["| " + " | ".join(HEADER) + " |", "|---|" + "---:|" * (len(HEADER) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in table_rows(model, costs)]
    return "\n".join(lines)


def drawn(costs: Sequence[Costs], advice: Sequence[Recommendation]) -> list[Combination]:
    """The combinations that the plot shows: the table's, and what is recommended."""
    shown = [cost.combination for cost in costs]
    extra = [each.costs[0].combination for each in advice if each.costs]
    return list(dict.fromkeys([*shown, *extra]))
