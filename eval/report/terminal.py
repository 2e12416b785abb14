"""The summary table in the terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.report.wording import delta_text, gate_text, judge, label_text, value_text
from eval.results import Results

_STYLES = {"better": "green", "worse": "red", "same": "dim"}


def print_summary(results: Results, console: Console) -> None:
    """One line per headline number; differences from the baseline are coloured where they are significant."""
    names = [checkpoint.name for checkpoint in results.checkpoints]
    table = Table(title=f"{results.baseline} is the baseline, ± is one standard error", title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for row in results.rows:
        if not row.headline:
            continue
        cells = []
        for name in names:
            cell = row.cells.get(name)
            text = Text(value_text(row, cell))
            delta = delta_text(row, cell)
            if delta:
                text.append(f"\n{delta}", style=_STYLES[judge(row, cell)])
            cells.append(text)
        table.add_row(label_text(row), *cells)
    console.print(table)
    for gate in results.gates:
        mark = "passed" if gate.passed else "FAILED"
        line = f"gate {mark}: {gate.checkpoint}: {gate_text(gate)}"
        console.print(line, style="green" if gate.passed else "red", highlight=False, markup=False)
    if results.missing:
        console.print(
            f"not measured: {'; '.join(results.missing)}", style="yellow", highlight=False, markup=False
        )
    for warning in results.warnings:
        console.print(f"note: {warning}", style="yellow", highlight=False, markup=False)
