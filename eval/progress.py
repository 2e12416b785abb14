"""Progress that fits its reader: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Tick = Callable[[int], None]


class Reporter:
    """Says what is being measured. ``Reporter(None)`` says nothing."""

    def __init__(self, console: Console | None) -> None:
        self.console = console

    def line(self, text: str) -> None:
        """Print one line."""
        if self.console is not None:
            self.console.print(text, highlight=False, markup=False)

    @contextmanager
    def step(self, label: str, total: int) -> Iterator[Tick]:
        """A bar that fills by the returned function's calls, and a line with the wall time at the end."""
        start = time.perf_counter()
        if self.console is None or not self.console.is_terminal:
            yield lambda _amount: None
        else:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task(label, total=total)
                yield lambda amount: bar.update(task, advance=amount)
        self.line(f"{label}: {time.perf_counter() - start:.1f} s")
