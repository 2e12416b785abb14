"""``python -m eval compare DIR [DIR ...] --output DIR``."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from eval.command_line import make_console, one_line_errors
from eval.errors import EvalError
from eval.gate import FAILED, GATE_HELP, read_gates

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)

_FOLDERS = "Folders that `python -m eval` wrote. The first checkpoint of the first is the baseline."


@app.command()
def main(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help=_FOLDERS, show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the reports; may be left out for one DIR.", show_default=False),
    ] = None,
    gate: Annotated[str | None, typer.Option(metavar="CONDITIONS", help=GATE_HELP)] = None,
) -> None:
    """Write the report of saved evaluations again, or of several in one table. Nothing is measured.

    Example: `python -m eval compare runs/monday runs/tuesday --output runs/both`
    """
    console = make_console()
    with one_line_errors("stopped"):
        if output is None and len(folders) > 1:
            raise EvalError("--output is missing: where the report of several folders goes")
        where = folders[0] if output is None else output
        gates = read_gates(gate) if gate else []
        from eval.report.terminal import print_summary
        from eval.run import finish
        from eval.saved import compare_saved
        from eval.store import prepare_folder

        command = "python -m eval compare " + shlex.join(sys.argv[2:])
        results = compare_saved(folders, where, command)
        prepare_folder(where)
        results = finish(results, gates, where)
    print_summary(results, console)
    console.print(f"report: {where / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    if not all(outcome.passed for outcome in results.gates):
        raise typer.Exit(FAILED)
