"""Heatmaps of retrieval, one per kind and checkpoint."""

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from eval.report.drawing import Picture, draw_picture, tokens_text
from eval.results import Results


def heatmaps(results: Results) -> dict[str, list[Picture]]:
    """By title of the kind: for every checkpoint what was found, by length of the document and depth."""
    pictures: dict[str, list[Picture]] = {}
    for name, detail in results.details.get("needle", {}).items():
        for key, kind in detail["kinds"].items():
            pictures.setdefault(kind["title"], []).append(_heatmap(results, name, key, detail))
    return pictures


def _heatmap(results: Results, name: str, key: str, detail: dict[str, Any]) -> Picture:
    kind, window, sinks = detail["kinds"][key], detail["window"], detail["sinks"]
    cell = results.cell(key, name)
    assert cell is not None and cell.value is not None
    caption = f"{cell.value:.0f}% of {cell.n}; "
    caption += f"frames: most evidence beyond its window of {window} tokens" if window else "no window"
    if any(part["sinks"] for part in kind["cells"]):
        caption += f", dotted where its {sinks} sinks hold it"
    rows = len(kind["depths"])
    size = (3.6, 1.1 + 0.4 * rows)
    return draw_picture(name, f"{kind['title']}, {name}: {caption}", size, _draw(detail, kind), caption)


def _draw(detail: dict[str, Any], kind: dict[str, Any]) -> Callable[[Axes, str], None]:
    lengths, depths = detail["lengths"], kind["depths"]
    cells = {(cell["length"], cell["depth"]): cell for cell in kind["cells"] if cell["condition"] == "depth"}

    whole = all(cell["found"] == int(cell["found"]) for cell in cells.values())

    def draw(axes: Axes, ink: str) -> None:
        rates = {place: cell["found"] / cell["n"] for place, cell in cells.items()}
        grid = [[rates[length, depth] for length in lengths] for depth in depths]
        axes.imshow(grid, cmap="RdYlBu", vmin=0, vmax=1, aspect="auto")
        for column, length in enumerate(lengths):
            for row, depth in enumerate(depths):
                cell = cells[length, depth]
                rate = rates[length, depth]
                color = "#111111" if 0.15 < rate < 0.85 else "#ffffff"
                text = f"{cell['found']:.0f}/{cell['n']}" if whole else f"{rate:.0%}"
                axes.text(column, row, text, ha="center", va="center", fontsize=9, color=color)
                if 2 * (cell["beyond"] + cell["sinks"]) > cell["n"]:
                    _frame(axes, column, row, color, dotted=cell["sinks"] > cell["beyond"])
        axes.set_xticks(range(len(lengths)), [tokens_text(length) for length in lengths])
        marks = [f"{depth:.0%}" for depth in depths] if kind["by_depth"] else ["all"]
        axes.set_yticks(range(len(depths)), marks)
        axes.set(xlabel="document length, tokens", ylabel="depth" if kind["by_depth"] else "")
        axes.grid(False)

    return draw


def _frame(axes: Axes, column: int, row: int, color: str, dotted: bool) -> None:
    style = (0, (1, 2)) if dotted else (0, (3, 2))
    corner = (column - 0.46, row - 0.44)
    axes.add_patch(Rectangle(corner, 0.92, 0.88, fill=False, edgecolor=color, linewidth=1.2, linestyle=style))
