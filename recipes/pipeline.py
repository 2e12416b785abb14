"""Carrying out a recipe: convert, measure, uptrain, measure, report."""

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console

from convert import ConvertError, Request, convert
from convert.source import open_source
from eval.errors import EvalError
from eval.parallel import join_peers
from eval.progress import Reporter
from eval.results import Results
from recipes.errors import RecipeError
from recipes.launch import check_launch, describe_launch, is_sharded
from recipes.placement.stage import choose_layers
from recipes.ready import check_packages, check_written
from recipes.schema import ConvertPart, Recipe, UptrainPart
from recipes.schema.recipe import CONVERTED
from recipes.stages import Stages, fingerprint, text_fingerprints

UPTRAINED = "uptrained"
Column = tuple[str, str | Path]


def run_recipe(recipe: Recipe, output: Path, resume: bool, console: Console, command: str) -> Results:
    """Run every stage of a recipe.

    Of processes launched together (``accelerate launch``), all train and take their share of what ``eval``
    splits; the main one alone converts, writes and reports. They must see the same folders.

    Args:
        recipe: A checked recipe.
        output: Folder of the run.
        resume: Go on where an earlier run stopped; without it the folder must be new or empty.
        console: Where progress goes.
        command: Noted in the report.

    Returns:
        The final measurements, which are also in ``results.json``, ``report.md`` and ``report.html``.

    Raises:
        RecipeError: a stage cannot be done, which shows before the first one where it can; or the folder
            holds another run.
        Interrupted: stopped by the user; ``resume`` goes on from there.
    """
    check_launch()
    check_written(recipe)
    if recipe.uptrain is not None:
        check_packages(recipe.uptrain)
    peers = join_peers("auto", told=(RecipeError, ConvertError, EvalError, OSError))
    reporter = Reporter(console if peers.main else None)
    stages = Stages(output, resume, reporter.line, peers)
    try:
        source = peers.from_main(lambda: _open(recipe, output, resume))
        columns: list[Column] = [("source", source)]
        notes: list[str] = []
        for name, part in recipe.conversions().items():
            if part.measured_layers is not None:
                how = recipe.placement_with_text()
                part, note = choose_layers(name, part, how, source, output, stages, reporter)
                notes.append(note)
            _convert(recipe.source, fingerprint(source), name, part, output, stages, reporter)
            columns.append((name, output / name))
        results = _measure(recipe, columns, output, command, reporter, notes)
        if recipe.uptrain is not None:
            _uptrain(recipe.uptrain, source, output, stages, reporter, command)
            columns.insert(2, (UPTRAINED, output / UPTRAINED))
            results = _measure(recipe, columns, output, command, reporter, notes)
    except (ConvertError, EvalError) as error:
        raise RecipeError(str(error)) from None
    except OSError as error:
        raise RecipeError(f"{error.filename or output}: {error.strerror or error}") from None
    return results


def _open(recipe: Recipe, output: Path, resume: bool) -> Path:
    """Make the run's folder; give the source's."""
    if not resume and output.is_dir() and any(output.iterdir()):
        raise RecipeError(
            f"{output} is not empty: add --resume to go on with that run, or give another --output"
        )
    output.mkdir(parents=True, exist_ok=True)
    return open_source(recipe.source).folder


def conversion_request(part: ConvertPart, source: str, destination: Path, **options: Any) -> Request:
    """The request of one conversion, as ``convert`` takes it."""
    return Request(source=source, destination=destination, **part.model_dump(), **options)


def _convert(
    source: str,
    origin: str | None,
    name: str,
    part: ConvertPart,
    output: Path,
    stages: Stages,
    reporter: Reporter,
) -> None:
    folder = output / name

    def work() -> None:
        result = convert(conversion_request(part, source, folder, force=folder.exists(), resume=True))
        reporter.line(f"convert {name}: {result.tier} ({result.model_type}): {result.reason}")

    inputs = {"source": origin, "convert": part.model_dump()}
    if part.calibrate is not None:
        inputs["text"] = fingerprint(Path(part.calibrate.partition(":")[0]))
    stages.do(f"convert-{name}", inputs, folder, work)


def _measure(
    recipe: Recipe,
    columns: Sequence[Column],
    output: Path,
    command: str,
    reporter: Reporter,
    notes: Sequence[str],
) -> Results:
    """Measure the columns; ``eval`` keeps every measurement in the run's folder and makes none twice."""
    # lm-eval and transformers take seconds to import: a mistake in the conversion should not wait for them.
    from eval.run import evaluate

    return evaluate(columns, recipe.eval, output, command=command, reporter=reporter, notes=notes)


def _uptrain(
    part: UptrainPart, source: Path, output: Path, stages: Stages, reporter: Reporter, command: str
) -> None:
    """Train and merge, as one stage: adapters alone are of no use to the next."""
    converted, folder = output / CONVERTED, output / UPTRAINED
    training, peers = output / "training", stages.peers
    launch = {"processes": peers.size, "sharded": is_sharded()}

    def begin() -> bool:
        """Say whether an earlier training goes on; what is left of another one is put aside."""
        kept = stages.read("uptrain-begun").get("inputs", {})
        before = kept.pop("launch", None)
        resume = stages.resume and kept == json.loads(json.dumps(inputs))
        if resume and training.exists() and before != launch:
            raise RecipeError(
                f"the training that was begun had {describe_launch(before)}, this run has "
                f"{describe_launch(launch)}, and would not go on with the same steps; launch it as before"
            )
        if training.exists() and not resume:
            aside = next(path for number in count(1) if not (path := output / f"training-{number}").exists())
            reporter.line(f"uptrain: begun anew: what it is made from has changed; the old one is {aside}")
            training.rename(aside)
        stages.write("uptrain-begun", inputs | {"launch": launch})
        return resume

    def work() -> None:
        from recipes.uptrain.merging import save_merged
        from recipes.uptrain.training import train

        for stage in part.stages:
            rows = stage.batch_size * part.accumulate * peers.size
            reporter.line(f"uptrain: {stage.steps} steps of {rows} x {stage.length} tokens")
        model, history = train(part, source, converted, training, peers.from_main(begin), reporter, peers)
        told = history | launch | {"command": command}
        peers.from_main(lambda: save_merged(model, converted, folder, told))

    inputs = {
        "teacher": fingerprint(source),
        "converted": fingerprint(converted),
        "text": text_fingerprints(part.data),
        "uptrain": part.model_dump(mode="json"),
    }
    stages.do("uptrain", inputs, folder, work, together=True)
