"""How every picture of the report is drawn: once for light and once for dark pages."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLORS = ("#4c78a8", "#e1812c", "#3a9e58", "#c44e8a", "#8a6fc0", "#9b7653", "#5aa9b5", "#8c8c8c")
MARKS = "os^Dv<>P"
STYLES = ("-", "--", "-.", ":")
INK = "#33373d"
"""Of text and lines on a light page."""


@dataclass(frozen=True)
class Picture:
    """Two PNG images as data addresses, and what a reader who sees neither should know."""

    title: str
    alt: str
    light: str
    dark: str
    caption: str = ""


def draw_picture(
    title: str, alt: str, size: tuple[float, float], draw: Callable[[Axes, str], None], caption: str = ""
) -> Picture:
    """Draw for both kinds of pages.

    Args:
        size: Inches.
        draw: Gets the axes and the colour of text and lines.
    """
    light, dark = (_png(size, draw, ink) for ink in (INK, "#d5d8dc"))
    return Picture(title, alt, light, dark, caption)


FEW = 6
"""Lines whose legend fits inside a picture."""


def legend(axes: Axes, ink: str) -> None:
    """A legend without a frame; one of many lines stands below, where it hides none of them."""
    count = len(axes.get_legend_handles_labels()[1])
    if count <= FEW:
        axes.legend(frameon=False, labelcolor=ink, fontsize=9)
    else:
        axes.legend(
            frameon=False,
            labelcolor=ink,
            fontsize=7,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            ncols=3,
        )


def tokens_text(value: float) -> str:
    """Tokens on an axis: ``512``, ``4k``."""
    return f"{value / 1024:g}k" if value >= 1024 and value % 1024 == 0 else f"{value:g}"


def _png(size: tuple[float, float], draw: Callable[[Axes, str], None], ink: str) -> str:
    """Draw with ``ink`` on a transparent ground; without pyplot, which changes global settings."""
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
