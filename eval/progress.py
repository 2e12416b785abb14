"""Progress that fits its reader: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Tick = Callable[[int], None]

LINE_EVERY_S = 30.0
"""Between lines of progress where there is no bar."""


class Reporter:
    """Says what is being measured. ``Reporter(None)`` says nothing."""

    def __init__(self, console: Console | None) -> None:
        self.console = console

    def line(self, text: str) -> None:
        """Print one line."""
        if self.console is not None:
            self.console.print(text, highlight=False, markup=False)

    @contextmanager
    def step(self, label: str, total: int, lines: bool = True) -> Iterator[Tick]:
        """A bar that fills by the returned function's calls, and a line with the wall time at the end.

        Args:
            label: What is done.
            total: Of what the function is called with.
            lines: Where there is no bar, print a line now and then; not where the caller prints its own.
        """
        start = time.perf_counter()
        if self.console is None or not self.console.is_terminal:
            yield self._lines(label, total, start) if lines else lambda _amount: None
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

    def _lines(self, label: str, total: int, start: float) -> Tick:
        """A tick that prints a line now and then."""
        done, said = 0, start

        def tick(amount: int) -> None:
            nonlocal done, said
            done += amount
            now = time.perf_counter()
            if self.console is not None and now - said >= LINE_EVERY_S and 0 < done < total:
                said = now
                left = duration((total - done) * (now - start) / done)
                self.line(f"{label}: {done} of {total}, {left} left")

        return tick


def duration(seconds: float) -> str:
    """A rough time, as people say it."""
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
