"""``plot.png``: what is kept of quality against what is kept of bytes."""

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eval.caches.records import Report
from eval.report.drawing import COLORS, INK, MARKS
from eval.results import Row


def picture(report: Report) -> bytes:
    """A PNG: a row of panels per length, perplexity and every kind of retrieval against bytes."""
    lengths, kinds = report.settings["lengths"], report.settings["kinds"]
    panels = ["perplexity", *kinds]
    figure = Figure(figsize=(4.6 * len(panels), 3.8 * len(lengths) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    handles: dict[str, Any] = {}
    for down, length in enumerate(lengths):
        for across, key in enumerate(panels):
            axes = figure.add_subplot(len(lengths), len(panels), down * len(panels) + across + 1)
            row, held = report.row(f"{key}@{length}"), report.row(f"kv_bytes@{length}")
            if row is not None and held is not None:
                handles |= _panel(axes, row, held)
            axes.set_title(f"{length:,} tokens", fontsize=10, color=INK)
    figure.legend(
        handles.values(),
        handles,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _panel(axes: Axes, row: Row, held: Row) -> dict[str, Any]:
    """A point per contender with its standard error; the line is where everything is kept."""
    axes.grid(True, color=INK, alpha=0.15, linewidth=0.6)
    names = [name for name in row.cells if held.cells[name].value and row.cells[name].value is not None]
    whole = held.cells[names[0]].value or 1.0
    axes.axhline(row.cells[names[0]].value or 0.0, color=INK, alpha=0.4, linewidth=0.8)
    drawn = {}
    for index, name in enumerate(names):
        cell = row.cells[name]
        # The error of the difference, where there is one: documents differ more than caches do.
        error = cell.stderr if cell.delta_stderr is None else cell.delta_stderr
        drawn[name] = axes.errorbar(
            [100 * (held.cells[name].value or 0.0) / whole],
            [cell.value or 0.0],
            yerr=[[error or 0.0], [error or 0.0]],
            color=COLORS[index % len(COLORS)],
            marker=MARKS[index % len(MARKS)],
            markersize=6,
            capsize=3,
            linestyle="none",
        )
    axes.set(xlabel="cache bytes, % of full", ylabel=f"{row.label.split(',')[0]}{', %' * (row.unit == '%')}")
    axes.set_xlim(left=0)
    return drawn
