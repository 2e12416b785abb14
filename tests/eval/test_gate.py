"""Gates: how they are read, what they hold, and the exit code."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.__main__ import app
from eval.errors import EvalError
from eval.gate import Gate, hold_gates, read_gates
from eval.results import Cell, Row


def row(key: str, **values: tuple[float | None, float | None]) -> Row:
    cells = {
        name: Cell(value=value, stderr=error, interval=None, n=10, n_of="x", delta_stderr=error)
        for name, (value, error) in values.items()
    }
    return Row(measure="m", key=key, label=key, unit="", better="higher", headline=True, cells=cells)


ROWS = [
    row("needle", source=(98.0, 1.0), converted=(95.0, 1.0), worse=(50.0, 1.0)),
    row("perplexity", source=(10.0, 0.1), converted=(10.1, 0.1)),
    row("kv_bytes@512", source=(2.0**21, None), converted=(2.0**19, None), worse=(2.0**20, None)),
]
NAMES = ["source", "converted", "worse"]


def test_conditions_are_read() -> None:
    assert read_gates("needle>=0.95*baseline, ppl <= 1.02 * baseline,kv_bytes@512<1MiB,acc>30%") == [
        Gate("needle>=0.95*baseline", "needle", ">=", 0.95, True),
        Gate("ppl <= 1.02 * baseline", "perplexity", "<=", 1.02, True),
        Gate("kv_bytes@512<1MiB", "kv_bytes@512", "<", 2.0**20, False),
        Gate("acc>30%", "acc", ">", 30.0, False),
    ]


@pytest.mark.parametrize("text", ["needle", "needle=3", "needle>=x", ">=3", "needle>=0.9*source", "a<1,", ""])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(EvalError, match="must be METRIC<=NUMBER"):
        read_gates(text)


def test_every_checkpoint_but_the_baseline_is_held() -> None:
    held = hold_gates(read_gates("needle>=0.95*baseline,kv_bytes@512<1MiB"), ROWS, NAMES)
    assert [(each.checkpoint, each.passed, each.close) for each in held] == [
        ("converted", True, True),
        ("worse", False, False),
        ("converted", True, None),
        ("worse", False, None),
    ]
    assert held[0].limit == pytest.approx(93.1)
    (alone,) = hold_gates(read_gates("perplexity<=10.05"), ROWS[1:2], ["source"])
    assert alone.checkpoint == "source" and alone.passed and alone.close


def test_what_was_not_measured_does_not_pass() -> None:
    (first, second) = hold_gates(read_gates("ppl<=2*baseline"), ROWS, NAMES)
    assert first.passed and not second.passed and second.value is None


def test_a_metric_that_nobody_measured_is_named() -> None:
    with pytest.raises(EvalError, match="unknown metric 'needel': did you mean 'needle'"):
        hold_gates(read_gates("needel>=1"), ROWS, NAMES)


@pytest.mark.parametrize(
    ("gate", "code", "said"),
    [
        ("kv_bytes@64<=0.99*baseline", 0, "gate passed: windowed: kv_bytes@64<=0.99*baseline"),
        ("kv_bytes@64<=1KiB", 1, "gate FAILED: windowed: kv_bytes@64<=1KiB"),
        ("kv_bytes@65<=1KiB", 2, "did you mean 'kv_bytes@64'"),
        ("kv_bytes@64=1KiB", 2, "must be METRIC<=NUMBER"),
    ],
)
def test_the_exit_code_tells(
    gate: str, code: int, said: str, dense: Path, sliding: Path, tmp_path: Path
) -> None:
    suite = tmp_path / "small.yaml"
    suite.write_text("name: small\nfootprint: {lengths: [64]}\n")
    given = [
        f"source={dense}",
        f"windowed={sliding}",
        "--suite",
        str(suite),
        "--output",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(app, [*given, "--gate", gate])
    assert result.exit_code == code, result.output
    assert said in " ".join(result.output.split())
    if code < 2:
        page = (tmp_path / "out" / "report.html").read_text()
        assert ('class="failed"' in page) == bool(code)
        assert ("**failed**" in (tmp_path / "out" / "report.md").read_text()) == bool(code)
