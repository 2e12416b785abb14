"""Numbers as people read them."""

import math
from typing import Literal

from eval.results import Cell, GateOutcome, Row

DASH = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
MINUS = "\N{MINUS SIGN}"
Judgement = Literal["better", "worse", "same"]
LEVEL = 0.05
"""How likely chance may be where a difference is still called one."""


def decimals(value: float) -> int:
    """Decimals to print: none from 100, two from 1, else as many as three significant digits take."""
    size = abs(value)
    if size >= 100 or size == 0:
        return 0
    return 2 if size >= 1 else min(6, 2 - math.floor(math.log10(size)))


def number(value: float, places: int | None = None) -> str:
    """A number with separators, and with ``decimals(value)`` places when not told otherwise."""
    return (
        f"{value:,.{decimals(value) if places is None else places}f}" if math.isfinite(value) else str(value)
    )


def bytes_text(value: float) -> str:
    """Bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            return (
                f"{value:.0f} B"
                if unit == "B"
                else f"{value:.3g} {unit}"
                if value < 1000
                else f"{value:,.0f} {unit}"
            )
        value /= 1024
    return f"{value:,.0f} GiB"


def label_text(row: Row) -> str:
    """The row's label, with the unit where the values do not show it."""
    return row.label if row.unit in ("", "%", "bytes") else f"{row.label}, {row.unit}"


def amount(row: Row, value: float) -> str:
    """A value, with its unit where that is short."""
    if row.unit == "bytes":
        return bytes_text(value)
    return f"{value:.1f}%" if row.unit == "%" else number(value)


def value_text(row: Row, cell: Cell | None) -> str:
    """``15.52 ± 0.63``; a dash where nothing was measured."""
    if cell is None or cell.value is None:
        return DASH
    if cell.stderr is None:
        return amount(row, cell.value)
    if row.unit == "%":
        return f"{cell.value:.1f} ± {cell.stderr:.1f}%"
    places = max(decimals(cell.value), 2 if abs(cell.stderr) < 1 else 0)
    return f"{number(cell.value, places)} ± {number(cell.stderr, places)}"


def delta_text(row: Row, cell: Cell | None) -> str:
    """The difference from the baseline: points, a factor or an amount; empty for the baseline itself."""
    if cell is None or (cell.delta is None and cell.ratio is None):
        return ""
    if row.unit == "bytes" or cell.delta is None:
        error = "" if cell.ratio_stderr is None else f" ± {cell.ratio_stderr:.2f}"
        return f"{TIMES} {cell.ratio:.2f}{error}" if cell.ratio is not None else ""
    if cell.delta == 0:
        return "no difference"
    sign = "+" if cell.delta > 0 else MINUS
    if row.unit == "%":
        error = "" if cell.delta_stderr is None else f" ± {cell.delta_stderr:.1f}"
        return f"{sign}{abs(cell.delta):.1f}{error} points"
    places = (
        decimals(cell.delta) if cell.delta_stderr is None else min(4, max(2, decimals(cell.delta_stderr) - 1))
    )
    error = "" if cell.delta_stderr is None else f" ± {number(cell.delta_stderr, places)}"
    return f"{sign}{number(abs(cell.delta), places)}{error}"


def count_text(row: Row) -> str:
    """How many samples are behind the row: once where it is the same for all checkpoints, else in order."""
    cells = list(row.cells.values())
    if _is_exact(cells[0]):
        return "exact count"
    counts = list(dict.fromkeys(cell.n for cell in cells))
    return f"n = {', '.join(map(str, counts))} {cells[0].n_of}"


def interval_text(cell: Cell | None) -> str:
    """Wilson's 95% interval where there is one."""
    if cell is None or cell.interval is None:
        return ""
    return f"95%: {cell.interval[0]:.0f} to {cell.interval[1]:.0f}%"


def judge(row: Row, cell: Cell | None) -> Judgement:
    """Better or worse than the baseline where chance is an unlikely reason (5%); exact numbers always."""
    if cell is None or row.better == "neither":
        return "same"
    change = cell.ratio - 1 if cell.delta is None and cell.ratio is not None else cell.delta
    if not change or not _significant(cell, change):
        return "same"
    return "better" if (change < 0) == (row.better == "lower") else "worse"


def evidence_text(cell: Cell | None) -> str:
    """What says how sure a difference is: McNemar's p-value, else the interval of the paired bootstrap."""
    if cell is None or not cell.delta:
        return ""
    if cell.p_value is not None:
        return "p < 0.001" if cell.p_value < 0.001 else f"p = {cell.p_value:.2g}"
    if cell.delta_interval is None:
        return ""
    low, high = (
        f"{'+' if end > 0 else MINUS if end < 0 else ''}{number(abs(end))}" for end in cell.delta_interval
    )
    return f"95%: {low} to {high}"


def gate_text(gate: GateOutcome) -> str:
    """``needle>=0.95*baseline (measured 91.2, limit 94.1)``, and whether chance could decide otherwise."""
    value, limit = ("nothing" if each is None else number(each) for each in (gate.value, gate.limit))
    close = ", within two standard errors of it" if gate.close else ""
    return f"{gate.gate} (measured {value}, limit {limit}{close})"


def _significant(cell: Cell, change: float) -> bool:
    if cell.p_value is not None:
        return cell.p_value < LEVEL
    if cell.delta_interval is not None:
        low, high = cell.delta_interval
        return not low <= 0 <= high
    error = cell.delta_stderr if cell.delta is not None else cell.ratio_stderr
    return _is_exact(cell) if error is None else abs(change) > 2 * error


def _is_exact(cell: Cell) -> bool:
    """Whether a number has no error; one whose error is unknown, with a single sample, is not exact."""
    return cell.n_of.endswith("exact count")
