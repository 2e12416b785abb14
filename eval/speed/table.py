"""The rows for people: Markdown, and the same on a terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.report.wording import DASH, TIMES, number
from eval.speed.records import Report, Row

COLUMNS = (
    "phase", "tokens", "batch", "contender", "computes", "ms", "middle half", "of ours", "runs", "error",
    "FLOP/s", "bytes/s", "byte bound, ms",
)  # fmt: skip
NOTE = (
    "ms is the median. Of ours: its time over that of the first of Headroom's that was timed, in the same "
    "turn, the median over the turns. Error: relative; of attention against float64, on sampled queries, "
    "gradients included; of a model's logits against the dense model's under the same mask, in its dtype. "
    "Who is wrong is not timed. FLOP/s and bytes/s: of what the mask needs, over the measured ceilings. Byte "
    "bound: what must be read or written once, at the measured copy bandwidth."
)


def cells(row: Row) -> list[str]:
    """One row as text."""
    start = [row.phase, f"{row.length:,}", str(row.batch), row.contender, row.computes]
    error = DASH if row.error is None else f"{row.error:.0e}"
    if row.ms is None or row.low_ms is None or row.high_ms is None:
        return [*start, f"{row.verdict}: {row.reason}", DASH, DASH, DASH, error, DASH, DASH, DASH]
    return [
        *start,
        number(row.ms),
        f"{number(row.low_ms)} to {number(row.high_ms)}",
        DASH if row.slower is None else f"{TIMES} {row.slower:.2f}",
        str(len(row.turns_ms)),
        error,
        f"{row.flop_fraction:.0%}",
        f"{row.byte_fraction:.0%}",
        number(row.bound_ms or 0),
    ]


def title(report: Report) -> str:
    """What was timed, and where."""
    shape = report.shape
    built = (
        "" if shape["layers"] == report.layers_of else f" ({shape['layers']} of {report.layers_of} layers)"
    )
    machine = report.environment
    return (
        f"{shape['name']}{built}: {shape['heads']} query heads, {shape['kv_heads']} KV heads, head_dim "
        f"{shape['head_dim']}; in every layer window {report.window}, {report.sinks} sinks; "
        f"{machine['device']} ({machine['cpu']}, {machine['threads']} threads), {machine['dtype']}, "
        f"torch {machine['torch']}"
    )


def ceilings_text(report: Report) -> str:
    """The ceilings as people read them."""
    ceilings = report.ceilings
    return (
        f"Measured ceilings: copy {ceilings.copy_bytes_per_s / 1e9:,.1f} GB/s (read plus written), matrix "
        f"product {ceilings.matmul_flop_per_s / 1e12:,.2f} TFLOP/s. Data: {report.data}."
    )


def markdown(report: Report) -> str:
    """``speed.md``."""
    lines = ["## Speed", "", title(report), "", ceilings_text(report), ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---|---:|---:|---|---|" + "---:|" * (len(COLUMNS) - 5)]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in cells(row)) + " |" for row in report.rows]
    lines += ["", NOTE, "", f"{report.date}, {report.wall_s:.0f} s.", "", "```", report.command, "```", ""]
    return "\n".join(lines)


def print_report(report: Report, console: Console) -> None:
    """The table, without the columns that only the files need."""
    shown = [3, 4, 5, 7, 9, 10, 11]
    groups: dict[tuple[str, int, int], list[Row]] = {}
    for row in report.rows:
        groups.setdefault((row.phase, row.length, row.batch), []).append(row)
    console.print(title(report), highlight=False, markup=False)
    console.print(ceilings_text(report), highlight=False, markup=False)
    for (phase, length, batch), rows in groups.items():
        table = Table(title=f"{phase}, {length:,} tokens, batch {batch}", title_justify="left")
        for column in shown:
            table.add_column(COLUMNS[column], justify="left" if column < 5 else "right", overflow="fold")
        for row in rows:
            table.add_row(*[escape(cells(row)[column]) for column in shown])
        console.print(table)
