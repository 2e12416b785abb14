"""What a person sees: a progress bar, the table of a conversion, and how to load its result."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from convert.card import describe_loss
from convert.pipeline import Report
from convert.quantities import format_change, format_value
from convert.request import Result, Row

PATIENCE_S = 2.0
PLAIN_STEP_S = 5.0
TIER_STYLES = {"native-gqa": "bold green", "native-window": "bold cyan", "windowed": "bold magenta"}


@contextmanager
def show_progress(console: Console) -> Iterator[Report]:
    """Give a report function that shows a bar on a terminal, or a line every few seconds elsewhere.

    Nothing is shown before two seconds have passed.

    Args:
        console: Where it is shown; standard error, so that results alone are on standard output.

    Yields:
        The function to call with what is being done, how much is done, how much there is, and the unit.
    """
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = progress.add_task("", total=None, amount="")
    started = time.monotonic()
    shown = started + PATIENCE_S - PLAIN_STEP_S
    counting, since = "", started

    def report(name: str, done: int, total: int, unit: str) -> None:
        nonlocal shown, counting, since
        now = time.monotonic()
        if unit != counting:
            # Bytes and steps go at different speeds: the time that is left is estimated anew.
            counting, since = unit, now
            progress.reset(task, total=total)
        if now - started < PATIENCE_S:
            return
        amount = _amount(done, total, unit)
        if console.is_terminal:
            progress.update(task, description=name, completed=done, total=total, amount=amount)
            progress.start()
        elif now - shown >= PLAIN_STEP_S:
            shown = now
            left = f", {_duration((now - since) * (total - done) / done)} left" if done else ""
            console.print(f"{name}: {amount} ({100 * done // max(total, 1)}%{left})", highlight=False)

    try:
        yield report
    finally:
        # A bar that never started would still print an empty line.
        if progress.live.is_started:
            progress.stop()


def _amount(done: int, total: int, unit: str) -> str:
    if unit == "bytes":
        return f"{format_value(done, unit)} of {format_value(total, unit)}"
    return f"{done} of {total} {unit}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def show_result(console: Console, result: Result) -> None:
    """Print what was written, why in this form, the table, and how to load it."""
    verb = "Would write" if result.dry_run else "Wrote"
    headline = Text.assemble(
        (verb, "bold"), " ", (str(result.path), "bold"), "  ", (result.tier, TIER_STYLES[result.tier])
    )
    console.print(headline, soft_wrap=True)
    console.print(Text(f"{result.reason[:1].upper()}{result.reason[1:]}.", style="dim"), soft_wrap=True)
    for note in result.notes:
        console.print(Text(f"{note}.", style="yellow"), soft_wrap=True)
    for line in describe_loss(result.provenance):
        console.print(Text(line, style="dim"), soft_wrap=True)
    console.print()
    console.print(_table(result.rows))
    console.print()
    console.print(Text("Load it:", style="bold"))
    for line in result.load_lines:
        console.print(Text(f"  {line}"), soft_wrap=True)


def _table(rows: tuple[Row, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("")
    table.add_column("source", justify="right")
    table.add_column("result", justify="right")
    table.add_column("")
    for row in rows:
        style = "green" if row.after < row.before else "dim"
        table.add_row(
            row.label,
            format_value(row.before, row.unit),
            format_value(row.after, row.unit),
            Text(format_change(row), style=style),
        )
    return table
