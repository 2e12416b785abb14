"""Costs and recommendations as a reader wants them, in the terminal and in the memo."""

from collections.abc import Sequence

from convert.budget.costs import Costs
from convert.budget.gpu import Gpu
from convert.budget.model import Model
from convert.budget.recommend import Recommendation
from convert.quantities import format_value

HEADER = (
    "combination", "KV per token", "KV per request", "weights", "activations", "total", "largest batch",
    "longest context", "decode bound", "prefill bound", "sees back",
)  # fmt: skip


def describe_model(model: Model) -> str:
    """One line: name, shapes, parameters."""
    guess = " (estimated)" if model.estimated else ""
    return (
        f"{model.name or 'bare shapes'}: {model.layers} layers, {model.heads} query heads, {model.kv_heads} "
        f"KV heads of {model.head_dim}, {format_value(model.parameters, 'count')} parameters{guess}"
    )


def describe_gpu(gpu: Gpu) -> str:
    """One line: name, memory, and the speeds that are known."""
    parts = [f"{gpu.name}: {format_value(gpu.memory, 'bytes')}"]
    if gpu.bandwidth is not None:
        parts.append(f"{gpu.bandwidth / 1e12:.3g} TB/s")
    if gpu.flops is not None:
        parts.append(f"{gpu.flops / 1e12:.4g} TFLOP/s")
    return ", ".join(parts)


def table_rows(model: Model, costs: Sequence[Costs]) -> list[tuple[str, ...]]:
    """Cells of the table, one row per combination, in the order of ``HEADER``."""
    return [
        (
            cost.combination.name(model),
            format_value(cost.per_token, "bytes"),
            format_value(cost.per_request, "bytes"),
            format_value(cost.weights, "bytes"),
            format_value(cost.activations, "bytes"),
            format_value(cost.total, "bytes"),
            str(cost.largest_batch) if cost.largest_batch else "none fits",
            _tokens(cost.longest_context),
            "bandwidth?" if cost.decode_s is None else f"{1e3 * cost.decode_s:.1f} ms",
            "FLOP/s?" if cost.prefill_s is None else f"{cost.prefill_s:.2f} s",
            f"{cost.receptive_field:,}",
        )
        for cost in costs
    ]


def _tokens(count: int | None) -> str:
    if count is None:
        return "any"
    return f"{count:,}" if count else "none fits"


def convert_command(model: Model, advice: Recommendation) -> str | None:
    """The command that makes what is recommended; None if nothing needs to be made."""
    if advice.costs is None:
        return None
    options = advice.costs[0].combination.options(model)
    return f"python -m convert {model.name or 'SRC'} DST {options}" if options else None


def advice_lines(model: Model, advice: Recommendation) -> list[str]:
    """A recommendation in lines of Markdown."""
    lines = [f"**{advice.workload}**: {advice.reason}"]
    for cost in advice.costs or ():
        bound = "" if cost.decode_s is None else f", a decode step of at least {1e3 * cost.decode_s:.1f} ms"
        cache = format_value(cost.per_request, "bytes")
        lines.append(f"- {format_value(cost.total, 'bytes')} with {cache} of cache per request{bound}")
    lines += [f"- risk: {risk.what}; watch: {risk.watch}" for risk in advice.risks]
    command = convert_command(model, advice)
    return [*lines, f"- `{command}`"] if command else lines
