"""The stage of a run that turns ``global_layers: auto:N`` into layers."""

from pathlib import Path

from eval.progress import Reporter
from recipes.placement.record import read_choice
from recipes.schema import ConvertPart, PlacementPart
from recipes.stages import Stages, fingerprint, text_fingerprints

FOLDER = "placement"


def choose_layers(
    name: str,
    part: ConvertPart,
    how: PlacementPart,
    source: Path,
    output: Path,
    stages: Stages,
    reporter: Reporter,
) -> tuple[ConvertPart, str]:
    """The conversion with its global layers named.

    Args:
        name: Of the conversion's column.
        part: A conversion whose layers are to be measured.
        how: Text, rows and probes; its data are given.
        source: The dense checkpoint.
        output: Folder of the run; ``placement/NAME.json`` holds what was measured.
        stages: Records of the run.
        reporter: Where progress goes.

    Returns:
        The conversion, and a sentence for the report.

    Raises:
        RecipeError: the layers cannot be measured.
    """
    keep = part.measured_layers
    assert keep is not None and how.data is not None
    record = output / FOLDER / f"{name}.json"

    def work() -> None:
        # torch and transformers take seconds to import, which a mistake in the recipe should not wait for.
        from recipes.placement.place import place

        placement = place(part, keep, how, source, reporter)
        placement.write(record)
        reporter.line(f"{name}: {placement.sentence()}")

    inputs = {
        "source": fingerprint(source),
        "keep": keep,
        "window": [part.window, part.sinks, part.positions],
        "text": text_fingerprints(how.data),
        "placement": how.model_dump(mode="json"),
    }
    stages.do(f"place-{name}", inputs, record, work)
    layers, sentence = read_choice(record)
    return part.with_global_layers(layers), f"{name}: {sentence}"
