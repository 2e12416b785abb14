"""Saved evaluations side by side, and what an evaluation that was stopped leaves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval import run as run_module
from eval.compare_command import app
from eval.errors import EvalError
from eval.run import evaluate
from eval.saved import compare_saved
from eval.strict import parse_strict
from eval.suite import Suite
from tests.eval.small import SECTIONS, SUITE, read


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


def altered(folder: Path, copy: Path, **changes: object) -> Path:
    """A copy of an evaluation whose ``results.json`` says something else."""
    shutil.copytree(folder, copy)
    path = copy / "results.json"
    data = json.loads(path.read_text())
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(data))
    return copy


def test_warnings_of_every_folder_are_kept_once(apart: tuple[Path, Path, Path], tmp_path: Path) -> None:
    root, first, second = apart
    told = altered(second, tmp_path / "told", warnings=[*read(first).warnings, "windowed: mind this"])
    both = compare_saved([first, told], root / "both", "command")
    assert "windowed: mind this" in both.warnings
    assert len(set(both.warnings)) == len(both.warnings)
    assert set(read(first).warnings) < set(both.warnings)


def test_another_machine_is_said_and_another_dtype_refused(
    apart: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    root, first, second = apart
    elsewhere = altered(second, tmp_path / "elsewhere", environment={"torch": "1.0", "device": "A GPU"})
    (said,) = [line for line in compare_saved([first, elsewhere], root, "c").warnings if "otherwise" in line]
    versions = read(first).environment
    assert said == (
        f"{elsewhere} was measured otherwise than {first}: device A GPU against {versions['device']}, "
        f"torch 1.0 against {versions['torch']}"
    )
    halved = altered(second, tmp_path / "halved", environment={"dtype": "float16"})
    with pytest.raises(EvalError, match="its dtype differ from the first folder's: float16 against float32"):
        compare_saved([first, halved], root, "c")


def test_samples_are_those_of_the_folder_that_measured_them(dense: Path, tmp_path: Path) -> None:
    short = {"name": "short", "perplexity": SECTIONS["perplexity"]}
    more = short | {"consistency": {"length": 32, "decode_tokens": 2, "samples": 2}}
    evaluate([("source", dense)], parse_strict(Suite, short), tmp_path / "short")
    evaluate([("source", dense)], parse_strict(Suite, more), tmp_path / "more")
    both = compare_saved([tmp_path / "short", tmp_path / "more"], tmp_path / "both", "command")
    linked = {row.measure: (tmp_path / "both" / row.cells["source"].samples).resolve() for row in both.rows}
    assert linked == {
        "perplexity": tmp_path / "short/samples/source/perplexity.jsonl",
        "consistency": tmp_path / "more/samples/source/consistency.jsonl",
    }
    assert all(path.is_file() for path in linked.values())


def test_what_an_earlier_run_left_in_the_folder_is_not_compared(
    dense: Path, sliding: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, pairs = run_module.load, [("source", dense), ("windowed", sliding)]

    def stopped(checkpoint: object, *rest: object) -> object:
        if checkpoint.name == "windowed":  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return real(checkpoint, *rest)  # type: ignore[arg-type]

    section = {"length": 64, "contexts": 4}
    evaluate(pairs, parse_strict(Suite, {"perplexity": section}), tmp_path / "out")
    monkeypatch.setattr(run_module, "load", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(pairs, parse_strict(Suite, {"perplexity": section | {"contexts": 2}}), tmp_path / "out")
    compared = compare_saved([tmp_path / "out"], tmp_path / "out", "command")
    assert compared.missing == ["windowed: perplexity"]
    assert all("windowed" not in row.cells for row in compared.rows)


def test_numbers_that_are_no_longer_stored_are_left_out_aloud(
    apart: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    keys = read(apart[2]).keys
    assert (
        keys["perplexity"]["source"] != keys["perplexity"]["windowed"] and keys["agreement"]["source"] == ""
    )
    changed = {"perplexity": keys["perplexity"] | {"windowed": "another"}}
    folder = altered(apart[2], tmp_path / "changed", keys=changed)
    compared = compare_saved([folder], folder, "command")
    assert compared.missing == ["windowed: perplexity"]
    assert any("windowed: perplexity is left out" in line for line in compared.warnings)


def test_a_folder_without_measurements_of_its_own_is_refused_and_kept(
    apart: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    given = [str(apart[1]), str(apart[2]), "--output", str(tmp_path / "both")]
    assert CliRunner().invoke(app, given).exit_code == 0
    before = (tmp_path / "both/results.json").read_text()
    result = CliRunner().invoke(app, [str(tmp_path / "both")])
    assert result.exit_code == 2 and "has no measurements of its own" in result.stderr
    assert (tmp_path / "both/results.json").read_text() == before
    old = altered(apart[2], tmp_path / "old", keys={})
    data = json.loads((old / "results.json").read_text())
    del data["keys"]
    (old / "results.json").write_text(json.dumps(data))
    with pytest.raises(EvalError, match="does not say what its numbers were made from"):
        compare_saved([old], old, "command")


def test_a_mistyped_folder_is_not_made(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, [str(tmp_path / "absent")]).exit_code == 2
    assert not (tmp_path / "absent").exists()
