"""A whole evaluation of three tiny checkpoints: results, reports, reuse, refusals."""

import json
import re
import shutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from eval import run as run_module
from eval.checkpoint import find_checkpoint
from eval.errors import EvalError
from eval.measures import MEASURES
from eval.report.heatmaps import heatmaps
from eval.results import SCHEMA_VERSION, Cell, CheckpointRecord, GateOutcome, Results, Row
from eval.run import evaluate
from eval.strict import parse_strict
from eval.suite import Suite

SUITE = parse_strict(
    Suite,
    {
        "name": "tiny",
        "perplexity": {"length": 64, "contexts": 4},
        "agreement": {"length": 64, "contexts": 2},
        "needle": {
            "kinds": ["needle", "common-words"],
            "lengths": [280, 300],
            "depths": [0.0, 0.5],
            "samples": 1,
            "controls": 1,
            "digits": 3,
        },
        "tasks": {"names": ["headroom_ending"], "limit": 2},
        "reach": {},
        "consistency": {"length": 64, "decode_tokens": 4, "samples": 2},
        "footprint": {"lengths": [40, 64], "predict_to": 1024},
        "speed": {"length": 32, "decode_tokens": 3, "repeats": 2},
    },
)


@pytest.fixture(scope="module")
def folder(dense: Path, sliding: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluation") / "out"
    evaluate([("source", dense), ("windowed", sliding)], SUITE, output)
    return output


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return Results.model_validate_json((folder / "results.json").read_text())


def test_results_are_complete(results: Results, folder: Path) -> None:
    assert results.schema_version == 2
    assert results.baseline == "source"
    assert {row.measure for row in results.rows} == set(SUITE.sections())
    for row in results.rows:
        for name, cell in row.cells.items():
            assert cell.n > 0 or row.measure == "tasks", (row.key, name)
            exact = row.unit == "bytes" or row.measure == "reach"
            assert (cell.stderr is None) == exact, row.key
            alone = name == "source" or row.measure == "agreement"
            assert (cell.delta is None and cell.ratio is None) == alone, row.key
    cell = results.cell("kv_bytes@64", "windowed")
    assert cell is not None and cell.ratio == pytest.approx((2 * 32 + 64) / (3 * 64))
    assert results.cell("perplexity", "absent") is None
    for name in ("source", "windowed"):
        lines = (folder / "samples" / name / "needle.jsonl").read_text().splitlines()
        assert len(lines) == 2 * (2 + 1 + 1) + 2 * (1 + 1 + 1)
        assert {"kind", "values", "answer", "found", "distance", "region"} <= set(json.loads(lines[0]))


def test_the_environment_and_digests_are_noted(results: Results) -> None:
    assert {"python", "torch", "transformers", "threads", "cpu"} <= set(results.environment)
    digests = {checkpoint.digest for checkpoint in results.checkpoints}
    assert len(digests) == 2
    assert any("synthetic" in warning for warning in results.warnings)


def test_the_page_needs_nothing_else(folder: Path, results: Results) -> None:
    page = (folder / "report.html").read_text()
    assert "{{" not in page and "{%" not in page
    addresses = re.findall(r"(?:src|href|srcset)\s*=\s*\"([^\"]*)\"", page)
    assert addresses
    for address in addresses:
        assert address.startswith("data:") or (folder / address).is_file(), address
    assert not re.findall(r"url\(|@import|<script [^>]*src|fetch\(", page)
    images = re.findall(r"<img src=\"data:image/png;base64,[A-Za-z0-9+/=]{500,}\" alt=\"([^\"]+)\"", page)
    pictures = heatmaps(results)
    assert {title: len(found) for title, found in pictures.items()} == {"Needles found": 2, "Common words": 2}
    assert len(images) == 4 + 4
    for text in ("source", "windowed", "KV cache against length", "Perplexity by position", "KL from the"):
        assert text in page
    for title in pictures:
        assert f"<h3>{title}</h3>" in page
    for text in (page, (folder / "report.md").read_text()):
        line = (
            "headroom_ending on windowed: multiple choice; 0-shot; made by eval/tasks; one pass through the "
        )
        assert f"{line}window of 32 in 2 of 3 layers (sdpa), no cache; batch size " in text


def test_the_markdown_has_every_headline(folder: Path, results: Results) -> None:
    text = (folder / "report.md").read_text()
    for row in results.rows:
        assert f"| {row.label}" in text
    assert "**windowed**" in text


def test_what_was_measured_is_not_measured_again(
    folder: Path,
    dense: Path,
    sliding: Path,
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out"
    shutil.copytree(folder, output)
    before = Results.model_validate_json((output / "results.json").read_text())

    def never(*_: Any) -> Any:
        raise AssertionError("loaded a model although everything was measured")

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "load", never)
        again = evaluate([("source", dense), ("windowed", sliding)], SUITE, output)
    assert again.rows == before.rows

    loads: list[str] = []
    real = run_module.load

    def counted(checkpoint: Any, *rest: Any) -> Any:
        loads.append(checkpoint.name)
        return real(checkpoint, *rest)

    monkeypatch.setattr(run_module, "load", counted)
    more = evaluate([("source", dense), ("new", make_checkpoint(seed=5))], SUITE, output)
    assert loads == ["new", "source"]
    assert more.cell("perplexity", "source") == before.cell("perplexity", "source")


def test_the_keys_of_the_metrics_are_those_that_gates_are_checked_against(results: Results) -> None:
    for row in results.rows:
        makers = [
            name
            for name, measure in MEASURES.items()
            if any(fnmatchcase(row.key, key) for key in measure.keys)
        ]
        assert makers == [row.measure], row.key


def test_identical_checkpoints_have_no_differences(dense: Path, tmp_path: Path) -> None:
    suite = SUITE.model_copy(update={"speed": None, "tasks": None})
    results = evaluate([("a", dense), ("b", dense)], suite, tmp_path / "out")
    for row in results.rows:
        if row.measure != "agreement":
            assert row.cells["b"].delta == 0, row.key


@pytest.mark.parametrize(
    "section", ["perplexity", "agreement", "speed", "needle", "footprint", "consistency"]
)
def test_too_long_is_refused_before_anything_is_loaded(
    section: str, make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("loaded")

    monkeypatch.setattr(run_module, "load", never)
    folder = make_checkpoint(max_position_embeddings=30)
    suite = SUITE.model_copy(update={name: None for name in SUITE.sections() if name != section})
    with pytest.raises(EvalError, match=rf"{section}.* too long for 'a': its config allows 30"):
        evaluate([("a", folder)], suite, tmp_path / "out")


def test_positions_in_the_cache_lift_the_limit(make_checkpoint: Callable[..., Path]) -> None:
    folder = make_checkpoint()
    config = json.loads((folder / "config.json").read_text())
    config["attention_window"] = {"size": 8, "sinks": 2, "positions": "cache", "global_layers": []}
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = find_checkpoint("endless", folder)
    checkpoint.check_length(100_000, "a text")
    assert checkpoint.shape.window == 8


def test_every_field_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    for record in (Results, Row, Cell, CheckpointRecord, GateOutcome):
        for name in record.model_fields:
            assert f"`{name}`" in page, f"{record.__name__}.{name}"
    assert f"version {SCHEMA_VERSION}" in page
