"""Memory against context: one line per combination, and the GPU's limit."""

from collections.abc import Sequence
from pathlib import Path

from convert.budget.combination import Combination
from convert.budget.costs import count_costs
from convert.budget.gpu import Gpu
from convert.budget.model import Model

POINTS = 49
SHORTEST = 1024


def plot_memory(
    path: Path, model: Model, gpu: Gpu, combinations: Sequence[Combination], context: int, batch: int
) -> None:
    """Draw total memory over the context and write it as an image.

    Args:
        path: Where to; the ending says which format.
        model: The model.
        gpu: Whose memory is the limit.
        combinations: One line each.
        context: Longest context, tokens.
        batch: Sequences at once.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    longest = max(context, 2 * SHORTEST)
    contexts = [round(SHORTEST * (longest / SHORTEST) ** (step / (POINTS - 1))) for step in range(POINTS)]
    figure, axes = pyplot.subplots(figsize=(11, 5.5), layout="constrained")
    for place, combination in enumerate(combinations):
        totals = [count_costs(model, gpu, combination, tokens, batch).total / 2**30 for tokens in contexts]
        style = ("-", "--", "-.", ":")[place // 10 % 4]
        axes.plot(contexts, totals, style, label=combination.name(model), linewidth=1.8)
    axes.axhline(gpu.memory / 2**30, color="black", linewidth=1)
    axes.annotate(gpu.name, (SHORTEST, gpu.memory / 2**30), xytext=(2, 3), textcoords="offset points")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1024:g}k")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("context, tokens")
    axes.set_ylabel(f"GiB at batch {batch}: weights, cache, activations")
    axes.grid(alpha=0.25, which="both")
    figure.legend(loc="outside right upper", fontsize=7, frameon=False, handlelength=3.5)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
