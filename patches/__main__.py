"""``python -m patches list``, ``check`` and ``bases``: the command line."""

import difflib
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, cast

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from patches.attention.backends import BACKENDS
from patches.cache.bases import FILE
from patches.check.cases import matrix
from patches.check.suite import GRADIENT_LIMITS, OUTPUT_LIMITS, Outcome, dtype_name, run
from patches.listing import missing_on, policies, served
from patches.policy import PolicyError
from patches.stock.bases import CONTEXTS, fit_to_text

# Some versions of typer carry their own copy of click; in all of them this is the base of usage errors.
USAGE_ERROR = cast(type[Exception], typer.BadParameter.__mro__[1])
LOG_WIDTH = 160
"""Columns of a table in a log or a pipe."""

app = typer.Typer(add_completion=False, rich_markup_mode="rich", no_args_is_help=True)


@app.callback()
def about() -> None:
    """Which ways of computing window + sink attention this machine has and whether they are exact; cache
    policies, and what a checkpoint's caches need.
    """


@app.command("list")
def show() -> None:
    """The backends, whether and why not they run here, and which serves which call; the cache policies."""
    table = Table("backend", "attn_implementation", "runs on", "here", box=box.SIMPLE)
    for backend in BACKENDS.values():
        here = backend.missing() or ("yes" if backend.automatic else "yes, by request only")
        table.add_row(backend.name, backend.requested_as, backend.needs, here)
    console = _console()
    console.print(table)
    console.print("Without a request, the first that serves a call:")
    table = Table("device", "dtype", "head_dim", "call", "backend", "here", box=box.SIMPLE)
    for row in served():
        table.add_row(
            row.device, row.dtype, row.head_dims, row.calls, row.by_rule, row.here or "no such device"
        )
    console.print(table)
    for title, rows in policies().items():
        console.print(title)
        table = Table(*rows[0], box=box.SIMPLE)
        for each in rows:
            table.add_row(*each.values())
        console.print(table)


@app.command()
def check(
    backend: Annotated[
        list[str] | None, typer.Option(help="Only this one; may be repeated. Default: all that run here.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="cpu or cuda; may be repeated. Default: what is here.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few cases of every kind.")] = False,
) -> None:
    """Hold every backend that runs here against float64, forward and backward; exit with 1 if one is off."""
    names, devices = _backends(backend), _devices(device)
    console = _console()
    with console.status("running") as status:
        outcomes = list(run(names, devices, matrix(quick), status.update))
    _report(console, outcomes)
    idle = [name for name in names if name not in {outcome.backend for outcome in outcomes}]
    if idle:
        console.print(f"served no case on {', '.join(devices)}: {', '.join(idle)}", style="red")
    if idle or not all(outcome.passed for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def bases(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint folder, windowed or not.")],
    text: Annotated[Path, typer.Option(help="Text as the model will read, UTF-8.", show_default=False)],
    length: Annotated[
        int | None, typer.Option(help="Tokens of a context; 2048, or the model's positions if fewer.")
    ] = None,
    contexts: Annotated[
        int, typer.Option(min=1, help="At most so many, from the beginning of the text.")
    ] = CONTEXTS,
) -> None:
    """Fit to a text what cache policy low-rank:bases=calibration reads, and write it into MODEL."""
    count, tokens = fit_to_text(model, text, length, contexts)
    _console().print(f"{FILE}: from {count} contexts, {tokens} tokens, in {model}", markup=False)


def _backends(names: list[str] | None) -> list[str]:
    """Those asked for, or all that run here.

    Raises:
        PolicyError: there is no such backend, or it cannot run here.
    """
    if not names:
        return [name for name, backend in BACKENDS.items() if backend.missing() is None]
    for name in names:
        if name not in BACKENDS:
            near = difflib.get_close_matches(name, BACKENDS, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise PolicyError(f"there is no backend {name!r}{hint} (choose from {', '.join(BACKENDS)})")
        if reason := BACKENDS[name].missing():
            raise PolicyError(f"--backend {name} cannot run here: {reason}")
    return names


def _devices(devices: list[str] | None) -> list[str]:
    """Those asked for, or all that are here.

    Raises:
        PolicyError: it is no device that is checked, or it is not here.
    """
    if not devices:
        return [device for device in ("cpu", "cuda") if missing_on(device) is None]
    for device in devices:
        if device not in ("cpu", "cuda"):
            raise PolicyError(f"--device {device} is not checked (choose from cpu, cuda)")
        if reason := missing_on(device):
            raise PolicyError(f"--device {device}: {reason}")
    return devices


def _report(console: Console, outcomes: list[Outcome]) -> None:
    """A row for each backend, device and dtype; below, what failed, and what was refused why."""
    table = Table("backend", "device", "dtype", "calls", "refused", box=box.SIMPLE)
    table.add_column("output (allowed)", justify="right")
    table.add_column("gradient (allowed)", justify="right")
    table.add_column("")
    for outcome in outcomes:
        table.add_row(
            outcome.backend,
            outcome.device,
            dtype_name(outcome.dtype),
            str(outcome.cases),
            str(sum(outcome.refusals.values())),
            _beside(outcome.output, OUTPUT_LIMITS[outcome.dtype]),
            _beside(outcome.gradient, GRADIENT_LIMITS[outcome.dtype]),
            "pass" if outcome.passed else "[red]FAIL[/red]",
        )
    console.print("Largest relative error against float64:")
    console.print(table)
    for outcome in outcomes:
        where = f"{outcome.backend}, {outcome.device}, {dtype_name(outcome.dtype)}"
        for failure in outcome.failures:
            console.print(f"failed: {where}: {failure}", style="red", markup=False)
    refused: Counter[tuple[str, str]] = Counter()
    for each in outcomes:
        refused.update({(each.backend, reason): count for reason, count in each.refusals.items()})
    for (backend, reason), count in refused.items():
        console.print(f"refused by {backend}, so that another serves: {count} calls, {reason}", markup=False)


def _beside(error: float | None, limit: float) -> str:
    return "-" if error is None else f"{error:.1e} ({limit:.0e})"


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def main() -> int:
    """Run the command line.

    Returns:
        0 when all is well, 1 when a backend is not exact, 2 with one line on standard error when the request
        cannot be met, 130 when interrupted.
    """
    try:
        return int(app(standalone_mode=False) or 0)
    except PolicyError as error:
        said = str(error)
    except USAGE_ERROR as error:
        said = f"{getattr(error, 'format_message', error.__str__)()} (see python -m patches --help)"
    except (KeyboardInterrupt, typer.Abort):
        return 130
    sys.stderr.write("error: " + " ".join(said.split()) + "\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
