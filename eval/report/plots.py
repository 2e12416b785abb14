"""The report's charts: memory, language by position, speed."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from eval.report.drawing import COLORS, MARKS, STYLES, Picture, draw_picture, legend, tokens_text
from eval.report.wording import bytes_text
from eval.results import Results


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
                STYLES[index % len(STYLES)],
                label=name,
                linewidth=2.4 - 0.3 * min(index, 4),
                **style,
            )
            points = detail.get("points", [])
            marks: Any = {"marker": MARKS[index % len(MARKS)], "linestyle": "none", "markersize": 5.5}
            label = None if curve else name
            axes.plot(
                [p["length"] for p in points], [p["measured"] for p in points], label=label, **marks, **style
            )
        axes.set(xscale="log", yscale="log", xlabel="tokens in the cache", ylabel="KV cache of one sequence")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tokens_text(value)))
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
        legend(axes, ink)

    caption = (
        "Lines are predicted from config.json, marks are bytes that the cache really held. "
        "Both axes are logarithmic."
    )
    return draw_picture(
        "KV cache against length", "KV cache bytes against length. " + caption, (6.4, 3.8), draw, caption
    )


LOG_FROM = 10
"""Ratio of the largest to the smallest value from which the axis is logarithmic."""


def perplexity_picture(results: Results) -> Picture | None:
    """Perplexity by position in the context."""
    return _by_position(results, "perplexity", "Perplexity by position", "perplexity")


def agreement_picture(results: Results) -> Picture | None:
    """KL from the baseline by position in the context."""
    return _by_position(results, "agreement", "KL from the baseline by position", "KL, nats per token")


def _by_position(results: Results, measure: str, title: str, unit: str) -> Picture | None:
    """Means in buckets of positions, with the ends of windows."""
    found = results.details.get(measure, {})
    details = {name: detail for name, detail in found.items() if detail.get("curve")}
    if not details:
        return None
    names = [checkpoint.name for checkpoint in results.checkpoints]
    longest = max(detail["length"] for detail in details.values())
    windows = {
        checkpoint.name: checkpoint.config["window"]
        for checkpoint in results.checkpoints
        if checkpoint.name in details and (checkpoint.config["window"] or longest) < longest
    }

    def draw(axes: Axes, ink: str) -> None:
        for name, detail in details.items():
            # A checkpoint has one look in all pictures; those that lie together are set apart a little.
            index = names.index(name)
            curve = detail["curve"]
            axes.errorbar(
                [(max(p["first"], p["last"] / 2) * p["last"]) ** 0.5 * (1 + 0.02 * index) for p in curve],
                [p["value"] for p in curve],
                yerr=[p["stderr"] or 0 for p in curve],
                label=name,
                color=COLORS[index % len(COLORS)],
                marker=MARKS[index % len(MARKS)],
                markersize=4.5,
                capsize=2,
                linewidth=1.4,
                elinewidth=0.8,
            )
        for name, window in windows.items():
            axes.axvline(window, color=COLORS[names.index(name) % len(COLORS)], linewidth=1, linestyle=":")
        axes.set(xscale="log", xlabel="position in the context", ylabel=unit)
        edges = [p["first"] for p in next(iter(details.values()))["curve"][1:]]
        axes.set_xticks([*edges, longest], [tokens_text(edge) for edge in [*edges, longest]])
        axes.minorticks_off()
        values = [p["value"] for detail in details.values() for p in detail["curve"]]
        if 0 < LOG_FROM * min(values) < max(values):
            # One ruined model would press all others into a line at the bottom.
            axes.set_yscale("log")
        legend(axes, ink)

    caption = (
        "Each mark is a bucket of positions, twice as wide as the one before it; bars are one standard error "
        "over contexts. All checkpoints read the same text, so the bars move together: the table's "
        "differences are more exact."
    )
    caption += " Dotted lines: where a window ends." if windows else ""
    return draw_picture(title, f"{title}. {caption}", (6.4, 3.8), draw, caption)


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
    return draw_picture("Speed", "Speed relative to the baseline. " + caption, size, draw, caption)
