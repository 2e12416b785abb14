"""``python -m eval NAME=PATH [NAME=PATH ...] --output DIR``, and ``python -m eval speed``."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

# lm-eval, transformers and datasets print bars of their own; the command line draws one bar per measure
# instead.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer
from rich.console import Console

from eval.errors import EvalError
from eval.names import check_names, split_pair
from eval.retrieval import KINDS
from eval.speed.command import app as speed
from eval.suite import load_suite, narrow, suite_names

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)

LOG_WIDTH = 140
"""Columns of the summary in a log or a pipe."""

_NAMED = "Checkpoints as NAME=PATH. The first is the baseline; the others show differences from it."
_SUITE = f"A suite by name ({', '.join(suite_names())}) or a YAML file."
_TEXT = (
    "Text to measure on: a file of documents apart by blank lines, a .jsonl file, or a folder of .txt files."
)
_KINDS = f"Kinds of retrieval, instead of the suite's: {', '.join(KINDS)}."
_LENGTHS = (
    "Token lengths, for example 512,1024: needles and memory at each, the other measures at the longest."
)


@app.command()
def main(
    named: Annotated[list[str], typer.Argument(metavar="NAME=PATH...", help=_NAMED, show_default=False)],
    output: Annotated[
        Path, typer.Option(help="Folder for results.json, report.md, report.html.", show_default=False)
    ],
    suite: Annotated[str, typer.Option(metavar="NAME|FILE", help=_SUITE)] = "quick",
    text: Annotated[Path | None, typer.Option(help=_TEXT, show_default="a synthetic one")] = None,
    tasks: Annotated[
        str | None, typer.Option(metavar="A,B", help="lm-eval tasks, instead of the suite's.")
    ] = None,
    kinds: Annotated[str | None, typer.Option(metavar="A,B", help=_KINDS)] = None,
    lengths: Annotated[str | None, typer.Option(metavar="N,N", help=_LENGTHS)] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many samples per cell, task, measure.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto (own dtype, float32 on CPU), float32, bfloat16, float16.")
    ] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Sequences at a time; by length if not given.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the suite's seed.")] = None,
) -> None:
    """Measure checkpoints side by side: perplexity, agreement, retrieval, lm-eval tasks, attention, KV bytes,
    speed.

    Ends with a table and the path of the report. A second run with the same --output measures only what is
    new.

    Example: `python -m eval source=models/a converted=models/b --text book.txt --output runs/compare`

    `python -m eval speed --help`: time attention and decoding by backend instead.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_WIDTH)
    try:
        pairs = [split_pair(argument) for argument in named]
        check_names([name for name, _ in pairs])
        chosen = narrow(
            load_suite(suite),
            lengths=_numbers(lengths),
            tasks=tasks.split(",") if tasks else None,
            limit=limit,
            kinds=kinds.split(",") if kinds else None,
        )
        changes: dict[str, object] = {}
        if text is not None:
            changes |= {"text": str(text), "text_start": 0.0}
        if seed is not None:
            changes["seed"] = seed
        # torch and transformers take seconds to import: a mistyped command should not wait for them.
        from eval.progress import Reporter
        from eval.report.terminal import print_summary
        from eval.run import evaluate

        results = evaluate(
            pairs,
            chosen.model_copy(update=changes),
            output,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            command="python -m eval " + shlex.join(sys.argv[1:]),
            reporter=Reporter(console),
        )
    except EvalError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("stopped; the same command continues with what is missing", err=True)
        raise typer.Exit(130) from None
    print_summary(results, console)
    console.print(f"report: {output / 'report.html'}", highlight=False, markup=False, soft_wrap=True)


def _numbers(text: str | None) -> list[int] | None:
    """``512,1024`` as numbers.

    Raises:
        EvalError: a part is not a number of at least 2.
    """
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise EvalError(
            f"--lengths {text!r} must be numbers separated by commas, for example 512,1024"
        ) from None
    if min(numbers) < 4:
        raise EvalError(f"--lengths {text!r}: every length must be at least 4")
    return numbers


if __name__ == "__main__":
    # No checkpoint can be given by this word, because it has no "=" in it.
    if sys.argv[1:2] == ["speed"]:
        speed(sys.argv[2:], prog_name="python -m eval speed")
    else:
        app(prog_name="python -m eval")
