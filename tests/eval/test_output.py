"""Every command tries its output folder before it spends minutes."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from eval.__main__ import app as evaluate
from eval.caches.command import app as cache
from eval.compare_command import app as compare
from eval.run import evaluate as run_evaluation
from eval.speed.command import app as speed
from eval.suite import Suite


@pytest.fixture(scope="module")
def saved(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    run_evaluation([("a", dense)], Suite.model_validate({"footprint": {"lengths": [8]}}), folder)
    return folder


@pytest.mark.parametrize("blocked", ["made", "written to"])
@pytest.mark.parametrize(
    ("app", "arguments"),
    [
        (evaluate, ["a={dense}", "--lengths", "64"]),
        (speed, ["--shape", "tiny"]),
        (cache, ["{dense}", "--lengths", "64"]),
        (compare, ["{saved}"]),
    ],
    ids=["eval", "speed", "cache", "compare"],
)
def test_an_output_that_cannot_be_used_is_said_in_one_line(
    app: typer.Typer, arguments: list[str], blocked: str, dense: Path, saved: Path, tmp_path: Path
) -> None:
    if blocked == "made":
        (tmp_path / "file").write_text("")
        output = tmp_path / "file" / "out"
    else:
        # Whoever runs the tests may be allowed to write everywhere; a folder is in the way of the probe.
        output = tmp_path / "out"
        (output / ".writable").mkdir(parents=True)
    given = [argument.format(dense=dense, saved=saved) for argument in arguments]
    result = CliRunner().invoke(app, [*given, "--output", str(output)])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: output ") and "cannot be written" in line
