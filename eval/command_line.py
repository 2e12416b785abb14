"""What the command lines of this room share: a console, lists of numbers, and mistakes said in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from eval.errors import EvalError
from eval.parallel import launched_rank

LOG_WIDTH = 140
"""Columns of a table in a log or a pipe."""
INTERRUPTED = 130


def make_console() -> Console:
    """The terminal, or a wide page where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


@contextmanager
def one_line_errors(stopped: str) -> Iterator[None]:
    """End the program with one line on standard error: 2 for a mistake, 130 for an interrupt.

    Args:
        stopped: What to say after an interrupt.
    """
    try:
        yield
    except EvalError as error:
        rank = launched_rank()
        typer.echo(f"error{f' in process {rank}' if rank else ''}: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo(stopped, err=True)
        raise typer.Exit(INTERRUPTED) from None


def split_numbers(option: str, text: str, least: int) -> list[int]:
    """``512,1024`` as numbers.

    Args:
        option: That they were given to.
        text: As given.
        least: The smallest that makes sense.

    Raises:
        EvalError: a part is not a number of at least ``least``.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) >= least for part in parts):
        raise EvalError(
            f"{option} {text!r} must be numbers from {least} separated by commas, for example 512,1024"
        )
    return [int(part) for part in parts]
