"""``python -m convert SRC DST``: the command line."""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console

from convert.card import TIERS
from convert.errors import ConvertError, Interrupted
from convert.merging import METHODS
from convert.pipeline import convert
from convert.request import Request, Result
from convert.support import family_notes
from convert.terminal import show_progress, show_result
from convert.treatment import DEFAULT_STEPS

# Some versions of typer carry their own copy of click; in all of them this is the base of usage errors.
USAGE_ERROR = cast(type[Exception], typer.BadParameter.__mro__[1])
INTERRUPTED = 130

METHOD_HELP = "; ".join(f"[bold]{method.name}[/bold]: {method.summary}" for method in METHODS.values())


def _list(entries: dict[str, str]) -> str:
    width = max(map(len, entries))
    return "\n".join(f"  [bold]{name:<{width}}[/bold]  [dim]{text}[/dim]" for name, text in entries.items())


HELP = f"""Make the KV cache of a checkpoint smaller: fewer KV heads, a sliding window, or both.

Weights are streamed and no model is built, unless a calibration text runs through it, layer by layer. The
result takes the most portable form that expresses it:

{_list(TIERS)}

[bold]Families[/bold]

{_list(family_notes())}

[bold]Examples[/bold]

  python -m convert meta-llama/Llama-2-7b-hf llama-gqa8 --kv-heads 8
  python -m convert meta-llama/Llama-2-7b-hf llama-gqa8 --kv-heads 8 --calibrate stories.txt
  python -m convert llama-gqa8 llama-window --window 4096 --sinks 4 --global-layers every:4
"""

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(help=HELP, no_args_is_help=True)
def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="Checkpoint folder or hub id, safetensors only.", show_default=False
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="New folder for the result.", show_default=False)
    ],
    kv_heads: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto:MEAN",
            help="KV heads of the result; must divide the source's. Kept if only --window is given. "
            "auto:MEAN shares that many per layer out by what merging would lose.",
            show_default=False,
            rich_help_panel="Heads",
        ),
    ] = None,
    merge: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help=f"{METHOD_HELP}. Default: mean; subspace where --calibrate is given.",
            show_default=False,
            rich_help_panel="Heads",
        ),
    ] = None,
    group: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="adjacent heads become one, or search for the groups that lose least.",
            rich_help_panel="Heads",
        ),
    ] = "adjacent",
    seed: Annotated[
        int, typer.Option(help="For methods that draw random numbers.", rich_help_panel="Heads")
    ] = 0,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Text that shows what flows in the layers: a file (.txt, .jsonl, .parquet, .csv) or "
            "DATASET[:config][:split][:column]. Without --merge it also turns on --refit and "
            f"--reconstruct {DEFAULT_STEPS}.",
            show_default=False,
            rich_help_panel="Calibration",
        ),
    ] = None,
    calibrate_tokens: Annotated[
        int, typer.Option(help="Tokens of it to read.", rich_help_panel="Calibration")
    ] = Request.calibrate_tokens,
    calibrate_batch: Annotated[
        int, typer.Option(help="Rows that are run at once.", rich_help_panel="Calibration")
    ] = Request.calibrate_batch,
    device: Annotated[
        str, typer.Option(help="Where it runs: cpu, cuda, cuda:1.", rich_help_panel="Calibration")
    ] = "cpu",
    refit: Annotated[
        bool | None,
        typer.Option(
            "--refit/--no-refit",
            help="Solve each layer's output projection anew, so that it makes up for what merging lost.",
            show_default=False,
            rich_help_panel="Calibration",
        ),
    ] = None,
    reconstruct: Annotated[
        int | None,
        typer.Option(
            metavar="STEPS",
            help="Train each layer's attention alone to give what the source's gives.",
            show_default=False,
            rich_help_panel="Calibration",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="Tokens that each windowed layer sees, its own included.", rich_help_panel="Window"
        ),
    ] = None,
    sinks: Annotated[
        int,
        typer.Option(help="First tokens that stay visible beside the window.", rich_help_panel="Window"),
    ] = 0,
    positions: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="How rotary positions count: absolute, as in the source.",
            rich_help_panel="Window",
        ),
    ] = "absolute",
    global_layers: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="Layers that keep full attention: none, all, every:4, first:2,last:2 or 0,5,10.",
            rich_help_panel="Window",
        ),
    ] = "none",
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="Convert every floating tensor: bfloat16, float16 or float32.",
            rich_help_panel="Output",
        ),
    ] = None,
    max_shard_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Largest weight file, such as 5GB; default: as the source.",
            rich_help_panel="Output",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check all but the weights' values and show the table; write nothing.",
            rich_help_panel="Output",
        ),
    ] = False,
    verify: Annotated[
        str,
        typer.Option(
            metavar="LEVEL",
            help="Checks before the result appears: sample, or full: every untouched byte, and that "
            "transformers finds every weight.",
            rich_help_panel="Output",
        ),
    ] = "sample",
    sync: Annotated[
        bool,
        typer.Option(
            "--sync/--no-sync",
            help="Force the result to disk before it appears. Without, it is done as soon as cp would be: a "
            "kill still leaves nothing or all of it, a power cut soon afterwards may damage it.",
            rich_help_panel="Output",
        ),
    ] = True,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the unfinished conversion beside DST, if there is one.",
            rich_help_panel="Output",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a checkpoint at DST.", rich_help_panel="Output")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object instead of the table.", rich_help_panel="Output"),
    ] = False,
) -> None:
    """Convert one checkpoint; errors leave through ``main``."""
    request = Request(
        source=source,
        destination=destination,
        kv_heads=kv_heads,
        merge=merge,
        group=group,
        calibrate=calibrate,
        calibrate_tokens=calibrate_tokens,
        calibrate_batch=calibrate_batch,
        device=device,
        refit=refit,
        reconstruct=reconstruct,
        window=window,
        sinks=sinks,
        positions=positions,
        global_layers=global_layers,
        dtype=dtype,
        max_shard_size=max_shard_size,
        force=force,
        seed=seed,
        dry_run=dry_run,
        resume=resume,
        verify=verify,
        sync=sync,
    )
    line = f"python -m convert {shlex.join(word for word in sys.argv[1:] if word != '--resume')}"
    try:
        with show_progress(Console(stderr=True)) as report:
            result = convert(request, command=line, report=report)
    except KeyboardInterrupt as error:
        raise Interrupted("; ".join(getattr(error, "__notes__", ["nothing was written"]))) from error
    if as_json:
        sys.stdout.write(to_json(result) + "\n")
    else:
        show_result(Console(), result)


def to_json(result: Result) -> str:
    """Write a result as one JSON object, the path as text."""
    return json.dumps(asdict(result) | {"path": str(result.path)}, indent=2)


def main() -> int:
    """Run the command line.

    Returns:
        0 on success, 2 with one line on standard error when the request is refused, 130 when interrupted.
    """
    try:
        code = int(app(standalone_mode=False) or 0)
    except ConvertError as error:
        return _fail(str(error))
    except USAGE_ERROR as error:
        return _fail(f"{getattr(error, 'format_message', error.__str__)()} (see python -m convert --help)")
    except Interrupted as error:
        sys.stderr.write(f"interrupted; {error}\n")
        return INTERRUPTED
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        sys.stderr.write("interrupted; nothing was written\n")
    return code


def _fail(message: str) -> int:
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
