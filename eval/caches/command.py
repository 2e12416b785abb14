"""``python -m eval cache PATH --policies A,B --output DIR``."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from eval.command_line import make_console, one_line_errors, split_numbers
from eval.retrieval import KINDS

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)

_POLICIES = "For layers that see everything, such as int4,low-rank:rank=32,residual=64; all if not given."
_WINDOWS = "For layers with a window, each with each of --policies."
_TEXT = "Text to measure on, documents apart by blank lines; a synthetic one when not given."
_KINDS = f"Kinds of retrieval: {', '.join(KINDS)}."
_CHUNK = "Tokens of a pass after the first half of a document."
_DTYPE = "auto (the checkpoint's own, in which its cache is served), float32, bfloat16, float16."


@app.command()
def main(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A checkpoint folder.", show_default=False)],
    output: Annotated[
        Path, typer.Option(help="Folder for results.json, table.md, plot.png.", show_default=False)
    ],
    policies: Annotated[str | None, typer.Option(metavar="A,B", help=_POLICIES, show_default=False)] = None,
    window_policies: Annotated[str, typer.Option(metavar="A,B", help=_WINDOWS)] = "full",
    text: Annotated[Path | None, typer.Option(help=_TEXT)] = None,
    lengths: Annotated[str, typer.Option(metavar="N,N", help="Tokens of the documents.")] = "512",
    samples: Annotated[
        int, typer.Option(min=2, help="Documents per length, for perplexity and each kind.")
    ] = 16,
    kinds: Annotated[str, typer.Option(metavar="A,B", help=_KINDS)] = "needle,recurring-key",
    chunk: Annotated[int, typer.Option(min=1, help=_CHUNK)] = 16,
    peers: Annotated[
        bool, typer.Option("--peers/--no-peers", help="Measure transformers' quantized caches too.")
    ] = True,
    runs: Annotated[int, typer.Option(min=1, help="Timed decode steps of each, at most.")] = 9,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    dtype: Annotated[str, typer.Option(help=_DTYPE)] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads.")] = None,
    seed: Annotated[int, typer.Option(help="Of the documents.")] = 0,
) -> None:
    """Put ways of keeping a cache side by side: bytes, perplexity at long positions, retrieval, decode speed.

    All of them read the same documents through their caches; differences are from the cache that keeps
    everything. transformers' own quantized caches are measured where their backends are installed.

    Example: `python -m eval cache models/a --policies int8,int4,low-rank:rank=64 --text book.txt --lengths
    4096 --output runs/caches`
    """
    console = make_console()
    with one_line_errors("stopped; nothing was written"):
        # torch and transformers take seconds to import: a mistyped command should not wait for them.
        from eval.caches.request import build_ask
        from eval.caches.run import measure
        from eval.caches.table import print_report
        from eval.caches.write import write_report
        from eval.store import prepare_folder

        ask = build_ask(
            path, policies, window_policies, text=text, lengths=split_numbers("--lengths", lengths, 16),
            samples=samples, kinds=kinds.split(","), chunk=chunk, peers=peers, runs=runs, device=device,
            dtype=dtype, threads=threads, seed=seed,
        )  # fmt: skip
        prepare_folder(output)
        command = "python -m eval " + shlex.join(sys.argv[1:])
        report = measure(ask, command, lambda line: typer.echo(f"measuring: {line}", err=True))
        write_report(report, output)
    print_report(report, console)
    console.print(f"report: {output / 'table.md'}", highlight=False, markup=False, soft_wrap=True)
