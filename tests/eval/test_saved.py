"""Saved evaluations side by side, and what an evaluation that was stopped leaves."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval import run as run_module
from eval.compare_command import app
from eval.errors import EvalError
from eval.journal import Journal
from eval.results import Results
from eval.run import evaluate
from eval.saved import compare_saved
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
    return Results.model_validate_json((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def apart(dense: Path, sliding: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    root = tmp_path_factory.mktemp("saved")
    evaluate([("source", dense)], SUITE, root / "a")
    evaluate([("source", dense), ("windowed", sliding)], SUITE, root / "b")
    return root, root / "a", root / "b"


def test_side_by_side_is_what_one_evaluation_says(apart: tuple[Path, Path, Path]) -> None:
    root, first, second = apart
    both = compare_saved([first, second], root / "both", "command")
    together = read(second)
    assert [row.key for row in both.rows] == [row.key for row in together.rows]
    for row, other in zip(both.rows, together.rows, strict=True):
        for name, cell in row.cells.items():
            expected = other.cells[name].model_copy(update={"samples": cell.samples})
            assert cell == expected
            assert not cell.samples or (root / "both" / cell.samples).resolve().is_file()
    assert not both.missing


def test_the_command_writes_reports_and_holds_gates(apart: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, first, second = apart
    given = [str(first), str(second), "--output", str(tmp_path), "--gate", "kv_bytes@64<=0.5*baseline"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 1, result.output
    assert "gate FAILED: windowed" in result.output
    assert {"results.json", "report.md", "report.html"} <= {path.name for path in tmp_path.iterdir()}


def test_one_folder_is_written_again(apart: tuple[Path, Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(apart[2], folder)
    (folder / "report.html").unlink()
    result = CliRunner().invoke(app, [str(folder)])
    assert result.exit_code == 0, result.output
    assert read(folder) == read(apart[2])
    assert (folder / "report.html").read_text() == (apart[2] / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "its seed differ from the first folder's: 1 against 0"),
        ({"perplexity": {"length": 64, "contexts": 2}}, "its settings of perplexity differ"),
    ],
)
def test_what_does_not_pair_up_is_refused(
    change: dict[str, object], said: str, apart: tuple[Path, Path, Path], dense: Path, tmp_path: Path
) -> None:
    evaluate([("source", dense)], parse_strict(Suite, SECTIONS | change), tmp_path / "other")
    with pytest.raises(EvalError, match=said):
        compare_saved([apart[1], tmp_path / "other"], tmp_path / "both", "command")


def test_other_weights_by_the_same_name_are_refused(
    apart: tuple[Path, Path, Path], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    evaluate([("source", make_checkpoint(seed=9))], SUITE, tmp_path / "other")
    with pytest.raises(EvalError, match="its 'source' has other weights"):
        compare_saved([apart[1], tmp_path / "other"], tmp_path / "both", "command")


@pytest.mark.parametrize(
    ("content", "said"), [(None, "has no results.json"), ("{}", "is not of this version")]
)
def test_what_is_no_evaluation_is_said_in_one_line(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert result.exit_code == 2
    assert said in result.stderr and result.stderr.count("\n") == 1


def test_a_measurement_that_was_killed_goes_on_within_it(
    dense: Path, sliding: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = {
        "name": "parts",
        "perplexity": {"length": 64, "contexts": 4, "stride": 32},
        "agreement": {"length": 64, "contexts": 4},
        "needle": {"lengths": [120], "depths": [0.0, 1.0], "samples": 2, "controls": 1},
    }
    suite, pairs = parse_strict(Suite, sections), [("source", dense), ("windowed", sliding)]
    whole = evaluate(pairs, suite, tmp_path / "whole", batch_size=1)

    real, made = Journal._write, 0
    killed_at = 0

    def counted(journal: Journal, value: object) -> None:
        nonlocal made
        made += 1
        if made == killed_at:
            raise KeyboardInterrupt
        real(journal, value)

    monkeypatch.setattr(Journal, "_write", counted)
    for killed_at in (3, 9, 17, 24, 30):
        with pytest.raises(KeyboardInterrupt):
            evaluate(pairs, suite, tmp_path / "parts", batch_size=1)
        made = killed_at - 1
    (journal,) = (tmp_path / "parts" / "measurements").glob("*.parts")
    journal.write_text(journal.read_text() + '["cut o')
    killed_at = 0
    resumed = evaluate(pairs, suite, tmp_path / "parts", batch_size=1)
    # Of each checkpoint 8 contexts and 6 documents, of the second 4 of agreement; none was made twice.
    assert made == 2 * (8 + 6) + 4
    assert resumed.rows == whole.rows
    assert not list((tmp_path / "parts" / "measurements").glob("*.parts"))


def test_an_evaluation_that_is_stopped_leaves_what_it_has_and_goes_on(
    dense: Path, sliding: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, real = tmp_path / "out", run_module.load

    def stopped(checkpoint: object, *rest: object) -> object:
        if checkpoint.name == "windowed":  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return real(checkpoint, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "load", stopped)
        with pytest.raises(KeyboardInterrupt):
            evaluate([("source", dense), ("windowed", sliding)], SUITE, output)
    partial = read(output)
    assert partial.missing == ["windowed: perplexity", "windowed: agreement", "windowed: footprint"]
    assert partial.cell("perplexity", "source") is not None
    assert "Not measured" in (output / "report.html").read_text()
    whole = evaluate([("source", dense), ("windowed", sliding)], SUITE, output)
    assert not whole.missing
    assert whole.cell("perplexity", "source") == partial.cell("perplexity", "source")
