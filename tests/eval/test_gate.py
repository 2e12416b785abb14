"""Gates: how they are read, what they hold, and the exit code."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval import run as run_module
from eval.__main__ import app
from eval.errors import EvalError
from eval.gate import Gate, hold_gates, read_gates
from eval.results import Cell, Row
from eval.run import evaluate
from eval.suite import Suite


def row(key: str, unit: str, **values: tuple[float | None, float | None]) -> Row:
    cells = {
        name: Cell(value=value, stderr=error, interval=None, n=10, n_of="x", delta_stderr=error)
        for name, (value, error) in values.items()
    }
    return Row(measure="m", key=key, label=key, unit=unit, better="higher", headline=True, cells=cells)


ROWS = [
    row("needle", "%", source=(98.0, 1.0), converted=(95.0, 1.0), worse=(50.0, 1.0)),
    row("perplexity", "", source=(10.0, 0.1), converted=(10.1, 0.1)),
    row("kv_bytes@512", "bytes", source=(2.0**21, None), converted=(2.0**19, None), worse=(2.0**20, None)),
]
NAMES = ["source", "converted", "worse"]


def test_conditions_are_read() -> None:
    text = "needle>=0.95*baseline, ppl <= 1.02 * baseline,kv_bytes@512<1MiB,acc>30%,ppl<=102%*baseline,kl<.5"
    assert read_gates(text) == [
        Gate("needle>=0.95*baseline", "needle", ">=", 0.95, True),
        Gate("ppl <= 1.02 * baseline", "perplexity", "<=", 1.02, True),
        Gate("kv_bytes@512<1MiB", "kv_bytes@512", "<", 2.0**20, False, "bytes"),
        Gate("acc>30%", "acc", ">", 30.0, False, "%"),
        Gate("ppl<=102%*baseline", "perplexity", "<=", 1.02, True),
        Gate("kl<.5", "kl", "<", 0.5, False),
    ]


@pytest.mark.parametrize(
    "text",
    ["needle", "needle=3", "needle>=x", ">=3", "needle>=0.9*source", "a<1,", "", "ppl<=1.0.2", "a<.", "a<1e"],
)
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


def test_a_factor_has_no_bytes() -> None:
    with pytest.raises(EvalError, match=r"'kv_bytes@512<=1KiB\*baseline': .* a number or %, not KiB"):
        read_gates("kv_bytes@512<=1KiB*baseline")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("needle>=0.9", "needle is a rate, whose limit has its %, such as needle>=90%"),
        ("needle>=1KiB", "needle is a rate"),
        ("ppl<=12%", "perplexity is a number without a unit"),
        ("ppl<=12MiB", "perplexity is a number without a unit"),
        ("kv_bytes@512<=50%", "kv_bytes@512 is in bytes"),
    ],
)
def test_a_limit_in_another_unit_is_refused(text: str, said: str) -> None:
    with pytest.raises(EvalError, match=f"--gate '{text}': {said}"):
        hold_gates(read_gates(text), ROWS, NAMES)
    (same, _) = hold_gates(read_gates("kv_bytes@512<=524288"), ROWS, NAMES)
    assert same.passed


def test_a_speed_is_held_by_its_ratio_in_turns() -> None:
    """The machine was slower while the baseline alone ran: the two values say nothing."""
    cells = {
        "source": Cell(value=30.0, stderr=1.0, interval=None, n=5, n_of="runs"),
        "converted": Cell(
            value=20.0, stderr=1.0, interval=None, n=5, n_of="runs", ratio=1.3, ratio_stderr=0.02
        ),
    }
    decode = Row(
        measure="speed", key="decode", label="", unit="ms/token", better="lower", headline=True, cells=cells
    )
    first, second = hold_gates(read_gates("decode<=1.05*baseline,decode<=1.27*baseline"), [decode], NAMES[:2])
    assert (first.value, first.limit, first.passed, first.close) == (1.3, 1.05, False, False)
    assert not second.passed and second.close
    (alone,) = hold_gates(read_gates("decode<=25"), [decode], NAMES[:2])
    assert alone.passed and alone.value == 20.0


def test_a_metric_that_will_not_be_measured_is_refused_before_anything_is_loaded(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(run_module, "load", never)
    suite = Suite.model_validate({"footprint": {"lengths": [64]}, "needle": {}})
    for gate, said in (("needel>=90%", "did you mean 'needle'"), ("ppl<=3", "unknown metric 'perplexity'")):
        with pytest.raises(EvalError, match=said):
            evaluate([("a", dense)], suite, tmp_path / "out", gate=gate)


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
