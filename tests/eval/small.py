"""A suite of a second, and what an evaluation wrote."""

from pathlib import Path

from eval.results import Results
from eval.strict import parse_strict
from eval.suite import Suite

SECTIONS = {
    "name": "small",
    "perplexity": {"length": 64, "contexts": 3},
    "agreement": {"length": 64, "contexts": 2},
    "footprint": {"lengths": [64], "predict_to": 128},
}
SUITE = parse_strict(Suite, SECTIONS)


def read(folder: Path) -> Results:
    """The record of an evaluation."""
    return Results.model_validate_json((folder / "results.json").read_text())
