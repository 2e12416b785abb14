"""The report's pictures, drawn once for light and once for dark pages."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from eval.report.wording import bytes_text
from eval.results import Results

COLORS = ("#4c78a8", "#e1812c", "#3a9e58", "#c44e8a", "#8a6fc0", "#9b7653", "#5aa9b5", "#8c8c8c")
_MARKS = "os^Dv<>P"
_STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Picture:
    """Two PNG images as data addresses, and what a reader who sees neither should know."""

    title: str
    alt: str
    light: str
    dark: str
    caption: str = ""


def needle_pictures(results: Results) -> list[Picture]:
    """One heatmap of length by depth per checkpoint."""
    pictures = []
    for name, detail in results.details.get("needle", {}).items():
        cell = results.cell("needle", name)
        if not detail or cell is None:
            continue
        window = detail.get("window")
        caption = f"{cell.value:.0f}% of {cell.n} found"
        caption += f"; frames: needles beyond its window of {window} tokens" if window else "; no window"
        pictures.append(
            _picture(name, f"Needles found by {name}: {caption}", (3.6, 3.1), _heatmap(detail), caption)
        )
    return pictures


def memory_picture(results: Results) -> Picture | None:
    """Predicted KV bytes against length for every checkpoint, with the measured points."""
    details = results.details.get("footprint", {})
    if not any(detail.get("points") for detail in details.values()):
        return None

    def draw(axes: Axes, ink: str) -> None:
        for index, (name, detail) in enumerate(details.items()):
            style: Any = {"color": COLORS[index % len(COLORS)]}
            curve = detail.get("curve", [])
            axes.plot(
                [p["length"] for p in curve],
                [p["bytes"] for p in curve],
                _STYLES[index % len(_STYLES)],
                label=name,
                linewidth=2.4 - 0.3 * min(index, 4),
                **style,
            )
            points = detail.get("points", [])
            marks: Any = {"marker": _MARKS[index % len(_MARKS)], "linestyle": "none", "markersize": 5.5}
            label = None if curve else name
            axes.plot(
                [p["length"] for p in points], [p["measured"] for p in points], label=label, **marks, **style
            )
        axes.set(xscale="log", yscale="log", xlabel="tokens in the cache", ylabel="KV cache of one sequence")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tokens(value)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: bytes_text(value)))
        axes.set_yticks([2.0**power for power in range(8, 45, 2)], minor=False)
        axes.minorticks_off()
        axes.autoscale(axis="y")
        axes.set_xticks([2.0**power for power in range(7, 31, 2)])
        low = min(p["measured"] for detail in details.values() for p in detail["points"])
        high = max(
            [p["bytes"] for detail in details.values() for p in detail.get("curve", [])]
            + [p["measured"] for detail in details.values() for p in detail["points"]]
        )
        axes.set_ylim(low / 2, high * 2)
        span = [
            p["length"] for detail in details.values() for p in detail.get("curve", []) or detail["points"]
        ]
        axes.set_xlim(min(span) / 1.2, max(span) * 1.2)
        _legend(axes, ink)

    caption = (
        "Lines are predicted from config.json, marks are bytes that the cache really held. "
        "Both axes are logarithmic."
    )
    return _picture(
        "KV cache against length", "KV cache bytes against length. " + caption, (6.4, 3.8), draw, caption
    )


LOG_FROM = 10
"""Ratio of the largest to the smallest perplexity from which the axis is logarithmic."""


def perplexity_picture(results: Results) -> Picture | None:
    """Perplexity by position in the context."""
    details = {
        name: detail for name, detail in results.details.get("perplexity", {}).items() if detail.get("curve")
    }
    if not details:
        return None

    def draw(axes: Axes, ink: str) -> None:
        for index, (name, detail) in enumerate(details.items()):
            curve = detail["curve"]
            middle = [(p["first"] + p["last"]) / 2 + 2 * index for p in curve]
            axes.errorbar(
                middle,
                [p["value"] for p in curve],
                yerr=[p["stderr"] or 0 for p in curve],
                label=name,
                color=COLORS[index % len(COLORS)],
                marker=_MARKS[index % len(_MARKS)],
                markersize=4.5,
                capsize=2,
                linewidth=1.4,
                elinewidth=0.8,
            )
        axes.set(xlabel="position in the context", ylabel="perplexity")
        values = [p["value"] for detail in details.values() for p in detail["curve"]]
        if max(values) > LOG_FROM * min(values):
            # One ruined model would press all others into a line at the bottom.
            axes.set_yscale("log")
        _legend(axes, ink)

    caption = (
        "Bars are one standard error of each value over contexts. All checkpoints read the same text, so "
        "the bars move together: the table's differences are more exact."
    )
    return _picture("Perplexity by position", "Perplexity by position. " + caption, (6.4, 3.8), draw, caption)


def speed_picture(results: Results) -> Picture | None:
    """Prefill and decode, relative to the baseline in the same turns."""
    names = [checkpoint.name for checkpoint in results.checkpoints[1:]]
    pairs = [(name, results.cell("prefill", name), results.cell("decode", name)) for name in names]
    known = [(name, a, b) for name, a, b in pairs if a and b and a.ratio and b.ratio]
    if not known:
        return None

    def draw(axes: Axes, ink: str) -> None:
        places = list(range(len(known)))
        for offset, which, label in ((-0.18, 1, "prefill speed"), (0.18, 2, "decode speed")):
            cells: list[Any] = [entry[which] for entry in known]
            values = [cell.ratio if which == 1 else 1 / cell.ratio for cell in cells]
            errors = [(cell.ratio_stderr or 0) * (1 if which == 1 else 1 / cell.ratio**2) for cell in cells]
            color = COLORS[0 if which == 1 else 1]
            axes.barh(
                [p + offset for p in places], values, 0.34, xerr=errors, label=label, color=color, ecolor=ink
            )
        axes.axvline(1.0, color=ink, linewidth=1, linestyle=":")
        axes.set_yticks(places, [name for name, _, _ in known])
        axes.invert_yaxis()
        axes.set(xlabel=f"times {results.baseline}'s; more is faster")
        axes.legend(
            frameon=False, labelcolor=ink, fontsize=9, ncols=2, loc="lower left", bbox_to_anchor=(0, 1)
        )

    caption = "Measured in turns with the baseline; lines are one standard error over the runs."
    size = (6.4, 1.4 + 0.6 * len(known))
    return _picture("Speed", "Speed relative to the baseline. " + caption, size, draw, caption)


def _heatmap(detail: dict[str, Any]) -> Callable[[Axes, str], None]:
    lengths, depths = detail["lengths"], detail["depths"]
    cells = {(c["length"], c["depth"]): c for c in detail["cells"] if c["condition"] == "depth"}

    def draw(axes: Axes, ink: str) -> None:
        grid = [[cells[n, d]["found"] / cells[n, d]["n"] for n in lengths] for d in depths]
        axes.imshow(grid, cmap="RdYlBu", vmin=0, vmax=1, aspect="auto")
        for column, length in enumerate(lengths):
            for row, depth in enumerate(depths):
                cell = cells[length, depth]
                rate = cell["found"] / cell["n"]
                color = "#111111" if 0.15 < rate < 0.85 else "#ffffff"
                text = f"{cell['found']}/{cell['n']}"
                axes.text(column, row, text, ha="center", va="center", fontsize=9, color=color)
                if cell["beyond"]:
                    box = ((column - 0.46, row - 0.44), 0.92, 0.88)
                    _frame(axes, box, color)
        axes.set_xticks(range(len(lengths)), [_tokens(length) for length in lengths])
        axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
        axes.set(xlabel="document length, tokens", ylabel="depth of the needle")
        axes.grid(False)

    return draw


def _frame(axes: Axes, box: tuple[tuple[float, float], float, float], color: str) -> None:
    axes.add_patch(Rectangle(*box, fill=False, edgecolor=color, linewidth=1.2, linestyle=(0, (3, 2))))


def _legend(axes: Axes, ink: str) -> None:
    axes.legend(frameon=False, labelcolor=ink, fontsize=9)


def _tokens(value: float) -> str:
    return f"{value / 1024:g}k" if value >= 1024 and value % 1024 == 0 else f"{value:g}"


def _picture(
    title: str, alt: str, size: tuple[float, float], draw: Callable[[Axes, str], None], caption: str = ""
) -> Picture:
    light, dark = (_png(size, draw, ink) for ink in ("#33373d", "#d5d8dc"))
    return Picture(title, alt, light, dark, caption)


def _png(size: tuple[float, float], draw: Callable[[Axes, str], None], ink: str) -> str:
    """Draw on a transparent ground with ``ink`` for text and axes; without pyplot, so nothing global "
    "changes."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(True, color=ink, alpha=0.15, linewidth=0.6)
    draw(axes, ink)
    for spine in axes.spines.values():
        spine.set_color(ink)
        spine.set_alpha(0.4)
    axes.tick_params(colors=ink, labelsize=9)
    axes.xaxis.label.set_color(ink)
    axes.yaxis.label.set_color(ink)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, transparent=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
