"""``python -m eval speed [PATH] --output DIR``."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.command_line import make_console, one_line_errors, split_numbers
from eval.errors import EvalError, unknown_name
from eval.speed.records import ATTENTION, BACKWARD, CACHE, FORWARD, MODEL
from eval.speed.shapes import SHAPES

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)

DEFAULT_SHAPE = "tinyllama-1.1b"
SHORT = {
    "forward": FORWARD,
    "backward": BACKWARD,
    "attention": ATTENTION,
    "cache": CACHE,
    "model": MODEL,
}
"""Phases as they are named on the command line."""
MOST_RUNS = 1000
"""Every run of a model's step adds a token, and its caches and positions end some time."""

_PATH = "A checkpoint: its shape, its window, its hidden states and its weights. Otherwise random ones."
_SHAPE = f"{', '.join(SHAPES)}; {DEFAULT_SHAPE} if there is no PATH."
_PHASES = "forward, backward (with forward), attention, cache (write + attention), model (a decode step)."


@app.command()
def main(
    output: Annotated[
        Path, typer.Option(help="Folder for speed.json, speed.md, speed.png.", show_default=False)
    ],
    path: Annotated[str | None, typer.Argument(metavar="[PATH]", help=_PATH, show_default=False)] = None,
    shape: Annotated[str | None, typer.Option(metavar="NAME", help=_SHAPE)] = None,
    lengths: Annotated[str, typer.Option(metavar="N,N", help="Tokens.")] = "2048,8192",
    window: Annotated[
        int | None, typer.Option(min=1, help="W, tokens; the checkpoint's, or 1024 if it has none.")
    ] = None,
    sinks: Annotated[int | None, typer.Option(min=0, help="S, tokens; the checkpoint's, or 4.")] = None,
    batch: Annotated[str, typer.Option(metavar="N,N", help="Batch sizes.")] = "1",
    heads: Annotated[int | None, typer.Option(min=1, help="Query heads, instead of the shape's.")] = None,
    kv_heads: Annotated[int | None, typer.Option(min=1, help="KV heads, instead of the shape's.")] = None,
    head_dim: Annotated[int | None, typer.Option(min=1, help="Instead of the shape's.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Of the model, where all do not fit.")] = None,
    phases: Annotated[str, typer.Option(metavar="A,B", help=_PHASES)] = ",".join(SHORT),
    backends: Annotated[
        str | None, typer.Option(metavar="A,B", help="Headroom's backends; all when not given.")
    ] = None,
    skip: Annotated[
        str | None, typer.Option(metavar="A,B", help="Leave out contenders with such a part in their name.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16, float16.")
    ] = "auto",
    runs: Annotated[
        int, typer.Option(min=1, max=MOST_RUNS, help="Timed runs of every contender, at most.")
    ] = 9,
    limit: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds per contender and row; one run always."),
    ] = 30.0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Processor threads; one is steadier on a busy machine.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random data.")] = 0,
) -> None:
    """Time attention and decoding: every backend that runs here, beside what a user would otherwise pick.

    Contenders are compared with a reference before they are timed, and timed in turns. Those that
    cannot run are listed with the reason.

    Example: `python -m eval speed --shape llama-2-7b --lengths 8192,32768 --window 4096 --output runs/speed`
    """
    console = make_console()
    with one_line_errors("stopped; nothing was written"):
        # torch and transformers take seconds to import: a mistyped command should not wait for them.
        from eval.speed.request import build_ask
        from eval.speed.run import measure
        from eval.speed.table import print_report
        from eval.speed.write import write_report
        from eval.store import prepare_folder

        given: dict[str, Any] = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "layers": layers}
        ask = build_ask(
            path, shape if shape or path else DEFAULT_SHAPE, given,
            lengths=split_numbers("--lengths", lengths, 1), batches=split_numbers("--batch", batch, 1),
            window=window, sinks=sinks, phases=_phases(phases),
            backends=backends.split(",") if backends else None,
            skip=skip.split(",") if skip else [],
            device=device, dtype=dtype, runs=runs, limit_s=limit, threads=threads, seed=seed,
        )  # fmt: skip
        prepare_folder(output)
        command = "python -m eval " + shlex.join(sys.argv[1:])
        report = measure(ask, command, lambda line: typer.echo(f"timing: {line}", err=True))
        write_report(report, output)
    print_report(report, console)
    console.print(f"report: {output / 'speed.md'}", highlight=False, markup=False, soft_wrap=True)


def _phases(text: str) -> list[str]:
    """The phases in their order.

    Raises:
        EvalError: one is not known.
    """
    parts = text.split(",")
    for part in parts:
        if part not in SHORT:
            raise EvalError(unknown_name("phase", part, SHORT))
    return [phase for name, phase in SHORT.items() if name in parts]
