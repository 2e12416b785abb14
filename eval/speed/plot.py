"""``speed.png``: time against length, a panel per phase."""

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from eval.report.drawing import COLORS, INK, MARKS
from eval.report.wording import number
from eval.speed.records import Report, Row


def picture(report: Report) -> bytes | None:
    """A PNG; None where nothing was timed.

    Args:
        report: Of all batches the smallest is drawn.
    """
    batch = min(row.batch for row in report.rows)
    timed = [row for row in report.rows if row.ms is not None and row.batch == batch]
    phases = list(dict.fromkeys(row.phase for row in timed))
    if not phases:
        return None
    names = list(dict.fromkeys(row.contender for row in timed))
    figure = Figure(figsize=(5.2 * len(phases), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for place, phase in enumerate(phases):
        axes = figure.add_subplot(1, len(phases), place + 1)
        _panel(axes, [row for row in timed if row.phase == phase], names)
        axes.set_title(f"{phase}, batch {batch}", fontsize=10, color=INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def look(index: int) -> dict[str, Any]:
    """Color, mark and line of a contender; those beyond the colors have other marks on dashed lines."""
    rounds, place = divmod(index, len(COLORS))
    mark = MARKS[(place + rounds) % len(MARKS)]
    return {"color": COLORS[place], "marker": mark, "linestyle": "--" if rounds else "-"}


def _panel(axes: Axes, rows: list[Row], names: list[str]) -> None:
    """Medians as lines, the middle half of the runs as bars, both axes logarithmic."""
    axes.grid(True, color=INK, alpha=0.15, linewidth=0.6)
    for index, name in enumerate(names):
        own = sorted((row for row in rows if row.contender == name), key=lambda row: row.length)
        middle = [row.ms or 0 for row in own]
        if not own:
            continue
        below = [row_ms - (row.low_ms or 0) for row, row_ms in zip(own, middle, strict=True)]
        above = [(row.high_ms or 0) - row_ms for row, row_ms in zip(own, middle, strict=True)]
        axes.errorbar(
            [row.length for row in own],
            middle,
            yerr=[below, above],
            label=f"{name} ({own[0].computes})",
            **look(index),
            markersize=4.5,
            capsize=2,
            linewidth=1.4,
            elinewidth=0.8,
        )
    lengths = sorted({row.length for row in rows})
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="milliseconds")
    axes.minorticks_off()
    axes.set_xticks(lengths, [f"{n / 1024:g}k" if n % 1024 == 0 else str(n) for n in lengths])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.legend(frameon=False, labelcolor=INK, fontsize=7.5)
