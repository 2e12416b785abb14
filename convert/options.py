"""The options of ``python -m convert``: what each is called, what it takes, what ``--help`` says of it."""

from pathlib import Path
from typing import Annotated

import typer

from convert.caches import serving
from convert.merging import METHODS
from convert.treatment import DEFAULT_STEPS

CACHE_HELP = "; ".join(f"[bold]{name}[/bold]: {policy.summary}" for name, policy in serving("global").items())
WINDOW_CACHE_HELP = ", ".join(f"[bold]{name}[/bold]" for name in serving("window"))
METHOD_HELP = "; ".join(f"[bold]{method.name}[/bold]: {method.summary}" for method in METHODS.values())

Source = Annotated[
    str,
    typer.Argument(metavar="SRC", help="Checkpoint folder or hub id, safetensors only.", show_default=False),
]
Destination = Annotated[
    Path, typer.Argument(metavar="DST", help="New folder for the result.", show_default=False)
]
KvHeads = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto:MEAN",
        help="KV heads of the result; must divide the source's. Default: as they are. "
        "auto:MEAN shares that many per layer out by what merging would lose.",
        show_default=False,
        rich_help_panel="Heads",
    ),
]
Merge = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD",
        help=f"{METHOD_HELP}. Default: mean; subspace where --calibrate is given.",
        show_default=False,
        rich_help_panel="Heads",
    ),
]
Group = Annotated[
    str,
    typer.Option(
        metavar="HOW",
        help="adjacent heads become one, or search for the groups that lose least.",
        rich_help_panel="Heads",
    ),
]
Seed = Annotated[int, typer.Option(help="For methods that draw random numbers.", rich_help_panel="Heads")]
Calibrate = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Text that shows what flows in the layers: a file (.txt, .jsonl, .parquet, .csv) or "
        "DATASET[:config][:split][:column]. Without --merge it also turns on --refit and "
        f"--reconstruct {DEFAULT_STEPS}.",
        show_default=False,
        rich_help_panel="Calibration",
    ),
]
CalibrateTokens = Annotated[int, typer.Option(help="Tokens of it to read.", rich_help_panel="Calibration")]
CalibrateBatch = Annotated[
    int, typer.Option(help="Rows that are run at once.", rich_help_panel="Calibration")
]
Device = Annotated[str, typer.Option(help="Where it runs: cpu, cuda, cuda:1.", rich_help_panel="Calibration")]
Refit = Annotated[
    bool | None,
    typer.Option(
        "--refit/--no-refit",
        help="Solve each layer's output projection anew, so that it makes up for what merging lost.",
        show_default=False,
        rich_help_panel="Calibration",
    ),
]
Reconstruct = Annotated[
    int | None,
    typer.Option(
        metavar="STEPS",
        help="Train each layer's attention alone to give what the source's gives.",
        show_default=False,
        rich_help_panel="Calibration",
    ),
]
Window = Annotated[
    int | None,
    typer.Option(help="Tokens that each windowed layer sees, its own included.", rich_help_panel="Window"),
]
Sinks = Annotated[
    int,
    typer.Option(help="First tokens that stay visible beside the window.", rich_help_panel="Window"),
]
Positions = Annotated[
    str,
    typer.Option(
        metavar="MODE",
        help="How far away sinks look: absolute, as far as they are; or cache, never farther than in a cache "
        "that has just filled, for streams longer than the source was trained for.",
        rich_help_panel="Window",
    ),
]
GlobalLayers = Annotated[
    str,
    typer.Option(
        metavar="SPEC",
        help="Layers that keep full attention: none, all, every:4, first:2,last:2 or 0,5,10.",
        rich_help_panel="Window",
    ),
]
Cache = Annotated[
    str,
    typer.Option(
        metavar="POLICY[:SETTING=VALUE,...]",
        help=f"How layers with full attention keep their tokens. {CACHE_HELP}.",
        rich_help_panel="Cache",
    ),
]
WindowCache = Annotated[
    str,
    typer.Option(
        metavar="POLICY[:SETTING=VALUE,...]",
        help=f"The same for layers with a window: {WINDOW_CACHE_HELP}.",
        rich_help_panel="Cache",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="Convert every floating tensor: bfloat16, float16 or float32.",
        rich_help_panel="Output",
    ),
]
MaxShardSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Largest weight file, such as 5GB; default: as the source.",
        rich_help_panel="Output",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check all but the weights' values and show the table; write nothing.",
        rich_help_panel="Output",
    ),
]
Verify = Annotated[
    str,
    typer.Option(
        metavar="LEVEL",
        help="Checks before the result appears: sample, or full: every untouched byte, and that "
        "transformers finds every weight.",
        rich_help_panel="Output",
    ),
]
Sync = Annotated[
    bool,
    typer.Option(
        "--sync/--no-sync",
        help="Force the result to disk before it appears. Without, it is done as soon as cp would be: a "
        "kill still leaves nothing or all of it, a power cut soon afterwards may damage it.",
        rich_help_panel="Output",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue the unfinished conversion beside DST, if there is one.",
        rich_help_panel="Output",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace a checkpoint at DST.", rich_help_panel="Output")
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object instead of the table.", rich_help_panel="Output"),
]
