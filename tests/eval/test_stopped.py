"""What an evaluation that was stopped or killed leaves, and how it goes on."""

from pathlib import Path

import pytest

from eval import run as run_module
from eval.journal import Journal
from eval.run import evaluate
from eval.strict import parse_strict
from eval.suite import Suite
from tests.eval.small import SUITE, read


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
