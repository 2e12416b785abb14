"""``python -m convert.budget``: the command line."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from convert.budget.combination import shown
from convert.budget.costs import Costs, count_costs
from convert.budget.gpu import GPUS, Gpu, read_gpu
from convert.budget.memo import drawn, write_memo
from convert.budget.model import Model, bare_model, read_model
from convert.budget.plot import plot_memory
from convert.budget.recommend import BOTH, WORKLOADS, Recommendation, find_workloads, recommend
from convert.budget.units import parse_count, parse_seconds
from convert.budget.wording import HEADER, advice_lines, describe_gpu, describe_model, table_rows
from convert.errors import ConvertError

# Some versions of typer carry their own copy of click; in all of them this is the base of usage errors.
USAGE_ERROR = cast(type[Exception], typer.BadParameter.__mro__[1])
SHAPES = ("layers", "heads", "kv_heads", "head_dim")
WIDE = 160
"""Columns of the table in a log or a pipe."""

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

_WORKLOADS = "; ".join(f"[bold]{load.name}[/bold]: {load.summary}" for load in WORKLOADS.values())
_GPU = f"A size such as 80GiB, or one of {', '.join(GPUS)}, which also have a bandwidth and FLOP/s."


@app.command(no_args_is_help=True)
def command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="Checkpoint folder or hub id; or give its shapes.", show_default=False
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Decoder layers.", rich_help_panel="Shapes")
    ] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Query heads.", rich_help_panel="Shapes")] = None,
    kv_heads: Annotated[int | None, typer.Option(min=1, help="KV heads.", rich_help_panel="Shapes")] = None,
    head_dim: Annotated[
        int | None, typer.Option(min=1, help="Numbers per head.", rich_help_panel="Shapes")
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(help="Such as 6.74B; estimated if not given.", rich_help_panel="Shapes")
    ] = None,
    context: Annotated[str, typer.Option(help="Tokens of a sequence, prompt and answer.")] = "131072",
    batch: Annotated[int, typer.Option(min=1, help="Sequences at once.")] = 1,
    gpu: Annotated[str, typer.Option(help=_GPU)] = "h100",
    bandwidth: Annotated[str | None, typer.Option(help="Of the GPU's memory, such as 3.35TB/s.")] = None,
    flops: Annotated[str | None, typer.Option(help="Of the GPU, dense, such as 989TFLOP/s.")] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Recommend for it: {_WORKLOADS}; or [bold]{BOTH}[/bold] at once. Default: all three."
        ),
    ] = None,
    decode_slo: Annotated[
        str | None, typer.Option(metavar="TIME", help="Longest decode step in chat, such as 25ms.")
    ] = None,
    memo: Annotated[
        Path | None, typer.Option(help="Write the recommendation as Markdown, with a plot beside it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count what a model's cache costs on a GPU, as it is and converted, and recommend a conversion.

    Example: `python -m convert.budget meta-llama/Llama-2-7b-hf --gpu h100 --decode-slo 25ms`
    """
    sizes = dict(zip(SHAPES, (layers, heads, kv_heads, head_dim), strict=True))
    described = _model(model, sizes, parameters)
    card = read_gpu(gpu, bandwidth, flops)
    slo_s = None if decode_slo is None else parse_seconds("decode_slo", decode_slo)
    tokens = parse_count("context", context)
    names = workload or [*WORKLOADS, BOTH]
    for name in names:
        find_workloads(name)
    costs = [count_costs(described, card, one, tokens, batch) for one in shown(described)]
    advice = [recommend(described, card, name, batch, slo_s) for name in names]
    if memo is not None:
        _write(memo, described, card, batch, slo_s, tokens, costs, advice)
    if as_json:
        entry = {"model": asdict(described), "gpu": asdict(card), "context": tokens, "batch": batch}
        entry |= {
            "combinations": [asdict(cost) for cost in costs],
            "advice": [asdict(each) for each in advice],
        }
        sys.stdout.write(json.dumps(entry, indent=2) + "\n")
        return
    _print(described, card, tokens, batch, costs, advice)


def _model(name: str | None, sizes: dict[str, int | None], parameters: str | None) -> Model:
    given = [f"--{key.replace('_', '-')}" for key, value in sizes.items() if value is not None]
    if name is not None:
        extra = [*given, *(["--parameters"] if parameters else [])]
        if extra:
            raise ConvertError(f"{', '.join(extra)}: a model {name!r} was given, which has its own")
        return read_model(name)
    missing = [f"--{key.replace('_', '-')}" for key, value in sizes.items() if value is None]
    if missing:
        raise ConvertError(f"give a MODEL, or its shapes; missing: {', '.join(missing)}")
    known = {key: value for key, value in sizes.items() if value is not None}
    count = None if parameters is None else parse_count("parameters", parameters)
    return bare_model(**known, parameters=count)


def _write(
    memo: Path,
    model: Model,
    gpu: Gpu,
    batch: int,
    decode_slo_s: float | None,
    context: int,
    costs: list[Costs],
    advice: list[Recommendation],
) -> None:
    plot = memo.with_suffix(".png")
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        plot_memory(plot, model, gpu, drawn(costs, advice), context, batch)
        memo.write_text(
            write_memo(model, gpu, batch, decode_slo_s, costs, advice, plot.name), encoding="utf-8"
        )
    except OSError as error:
        raise ConvertError(f"memo={str(memo)!r} cannot be written: {error.strerror}") from error


def _print(
    model: Model, gpu: Gpu, context: int, batch: int, costs: list[Costs], advice: list[Recommendation]
) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    console.print(
        f"{describe_model(model)}\n{describe_gpu(gpu)}; {context:,} tokens, batch {batch}", highlight=False
    )
    table = Table()
    for place, column in enumerate(HEADER):
        table.add_column(column, justify="left" if place == 0 else "right")
    for row in table_rows(model, costs):
        table.add_row(*row)
    console.print(table)
    for each in advice:
        console.print(Markdown("\n".join(advice_lines(model, each))))


def main() -> int:
    """Run the command line.

    Returns:
        0 on success, 2 with one line on standard error when the request is refused.
    """
    try:
        return int(app(standalone_mode=False) or 0)
    except ConvertError as error:
        message = str(error)
    except USAGE_ERROR as error:
        message = f"{getattr(error, 'format_message', error.__str__)()} (see python -m convert.budget --help)"
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
