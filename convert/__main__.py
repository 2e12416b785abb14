"""``python -m convert SRC DST``: the command line."""

import json
import shlex
import sys
from dataclasses import asdict
from typing import cast

import typer
from rich.console import Console

from convert import options
from convert.calibration.share import joined
from convert.card import TIERS
from convert.errors import ConvertError, Interrupted
from convert.pipeline import convert
from convert.request import Request, Result
from convert.support import family_notes
from convert.terminal import show_progress, show_result

# Some versions of typer carry their own copy of click; in all of them this is the base of usage errors.
USAGE_ERROR = cast(type[Exception], typer.BadParameter.__mro__[1])
INTERRUPTED = 130


def _list(entries: dict[str, str]) -> str:
    width = max(map(len, entries))
    return "\n".join(f"  [bold]{name:<{width}}[/bold]  [dim]{text}[/dim]" for name, text in entries.items())


HELP = f"""Make the KV cache of a checkpoint smaller: fewer KV heads, a sliding window, compressed tokens.

Weights are streamed and no model is built, unless a calibration text runs through it, layer by layer. The
result takes the most portable form that expresses it:

{_list(TIERS)}

[bold]Families[/bold]

{_list(family_notes())}

[bold]Examples[/bold]

  python -m convert meta-llama/Llama-2-7b-hf llama-gqa8 --kv-heads 8
  python -m convert meta-llama/Llama-2-7b-hf llama-gqa8 --kv-heads 8 --calibrate stories.txt
  python -m convert llama-gqa8 llama-window --window 4096 --sinks 4 --global-layers every:4
  python -m convert meta-llama/Llama-2-7b-hf llama-int4 --cache int4
"""

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(help=HELP, no_args_is_help=True)
def command(
    source: options.Source,
    destination: options.Destination,
    kv_heads: options.KvHeads = None,
    merge: options.Merge = None,
    group: options.Group = "adjacent",
    seed: options.Seed = 0,
    calibrate: options.Calibrate = None,
    calibrate_tokens: options.CalibrateTokens = Request.calibrate_tokens,
    calibrate_batch: options.CalibrateBatch = Request.calibrate_batch,
    device: options.Device = "cpu",
    refit: options.Refit = None,
    reconstruct: options.Reconstruct = None,
    window: options.Window = None,
    sinks: options.Sinks = 0,
    positions: options.Positions = "absolute",
    global_layers: options.GlobalLayers = "none",
    cache: options.Cache = "full",
    window_cache: options.WindowCache = "full",
    dtype: options.Dtype = None,
    max_shard_size: options.MaxShardSize = None,
    dry_run: options.DryRun = False,
    verify: options.Verify = "sample",
    sync: options.Sync = True,
    resume: options.Resume = False,
    force: options.Force = False,
    as_json: options.AsJson = False,
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
        cache=cache,
        window_cache=window_cache,
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
        with joined() as share, show_progress(Console(stderr=True, quiet=share.rank > 0)) as report:
            result = convert(request, command=line, report=report, share=share)
    except KeyboardInterrupt as error:
        raise Interrupted("; ".join(getattr(error, "__notes__", ["nothing was written"]))) from error
    if share.rank:
        return
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
