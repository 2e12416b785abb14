"""``python -m recipes list | check FILE... | run FILE | layers CHECKPOINT``."""

import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated

# Libraries draw bars of their own; the command line draws one per stage instead.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer
from rich.console import Console
from rich.table import Table

from convert import ConvertError
from eval.errors import EvalError
from eval.parallel import launched_rank, parting
from eval.progress import Reporter
from recipes.errors import Interrupted, RecipeError
from recipes.loading import SHIPPED, load_recipe, shipped_recipes

INTERRUPTED = 130
LOG_WIDTH = 140
"""Columns of tables in a log or a pipe."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Convert a checkpoint, measure it, uptrain it with its source as teacher, and measure again.",
)


@app.command("list")
def list_recipes() -> None:
    """List the recipes that come with Headroom."""
    table = Table("recipe", "workload", "source", "what it does")
    for path in shipped_recipes():
        recipe = load_recipe(path)
        source = Path(recipe.source)
        shown = source.relative_to(SHIPPED.parent) if source.is_relative_to(SHIPPED.parent) else recipe.source
        table.add_row(str(path.relative_to(SHIPPED.parent)), recipe.workload, str(shown), recipe.description)
    _console().print(table)


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recipes.", show_default=False)],
    gpus: Annotated[int, typer.Option(min=1, help="GPUs that share the training, for its memory.")] = 1,
) -> None:
    """Check recipes without running them: every key, every range, and every conversion of a local source.

    Says how much memory the training takes on each GPU.
    """
    from recipes.checking import check_recipe

    console = _console()
    # All first: whoever mistyped the last one should not wait for the others.
    for file, recipe in [(file, load_recipe(file)) for file in files]:
        lines = check_recipe(recipe, gpus)
        console.print(f"{file}: ok", highlight=False, markup=False)
        for line in lines:
            console.print(f"  {line}", highlight=False, markup=False)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recipe.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run.", show_default="runs/NAME of the recipe")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="a.b=c", help="Change a key, such as uptrain.steps=50. Repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that stopped.")] = False,
) -> None:
    """Run a recipe. Ends with a table and the path of the report.

    Example: `python -m recipes run recipes/tiny/demo.yaml --set uptrain.steps=50 --output runs/short`
    """
    recipe = load_recipe(file, changes or [])
    folder = output or Path("runs") / recipe.name
    console = _console()
    # torch and transformers take seconds to import: a mistyped command should not wait for them.
    from eval.report.terminal import print_summary
    from recipes.pipeline import run_recipe

    try:
        results = run_recipe(recipe, folder, resume, console, "python -m recipes " + shlex.join(sys.argv[1:]))
    except KeyboardInterrupt:
        # typer would end the program without a word.
        raise Interrupted("stopped") from None
    if launched_rank() == 0:
        print_summary(results, console)
        console.print(f"report: {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def layers(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A dense checkpoint folder.", show_default=False)
    ],
    window: Annotated[int, typer.Option(min=1, help="Tokens that a windowed layer sees.")],
    keep: Annotated[int, typer.Option(min=1, help="How many layers keep full attention.")],
    text: Annotated[Path, typer.Option(help="Long text like that of the work: .txt or .jsonl.")],
    sinks: Annotated[int, typer.Option(min=0, help="First tokens that stay visible.")] = 4,
    positions: Annotated[str, typer.Option(help="How far away sinks look: absolute or cache.")] = "absolute",
    length: Annotated[
        int | None, typer.Option(min=16, help="Tokens of a row.", show_default="four windows")
    ] = None,
    rows: Annotated[int, typer.Option(min=2, help="Rows of each probe; more are steadier.")] = 8,
    seed: Annotated[int, typer.Option(help="Draws tokens, passages and needles.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("placement.json"),
) -> None:
    """Measure which layers must keep full attention, as global_layers: auto:N does in a recipe.

    Prints what `python -m convert --global-layers` takes. Loads the model; takes about KEEP x layers x rows
    forward passes for each of three probes.
    """
    from recipes.placement.place import place
    from recipes.schema import ConvertPart, FileData, PlacementPart

    part = ConvertPart(window=window, sinks=sinks, positions=positions)
    how = PlacementPart(
        data=FileData(kind="file", file=str(text)), length=length, rows=rows, seed=seed, device=device
    )
    console = _console()
    try:
        placement = place(part, keep, how, checkpoint, Reporter(console))
        placement.write(output)
    except (ConvertError, EvalError) as error:
        raise RecipeError(str(error)) from None
    except OSError as error:
        raise RecipeError(f"{error.filename or output}: {error.strerror or error}") from None
    console.print(placement.table())
    console.print(placement.sentence(), highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"--global-layers {','.join(map(str, placement.ranking.chosen))}", highlight=False, markup=False
    )
    console.print(f"written: {output}", highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2."""
    # Advice from one library to another, which the reader of a run can do nothing about.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        with parting():
            app(prog_name="python -m recipes")
    except RecipeError as error:
        rank = launched_rank()
        typer.echo(f"error{f' in process {rank}' if rank else ''}: {error}", err=True)
        raise SystemExit(2) from None
    except Interrupted as stop:
        if launched_rank() == 0:
            typer.echo(f"{stop}; the same command with --resume goes on from there", err=True)
        raise SystemExit(INTERRUPTED) from None


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


if __name__ == "__main__":
    main()
