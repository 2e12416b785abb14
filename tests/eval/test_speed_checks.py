"""A wrong contender is reported as wrong, whatever its speed; and the arithmetic of the table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from typer.testing import CliRunner

from eval.speed.command import SHORT, app
from eval.speed.costs import costs_of
from eval.speed.model import Twins
from eval.speed.records import Report, Row
from eval.speed.reference import Inputs, exact, output_error
from eval.speed.request import build_ask
from eval.speed.timing import Clock, in_turns, paired_ratio, quartiles
from patches.attention import backends
from patches.attention.mask import visible
from patches.attention.sdpa import attend

WINDOW, SINKS = 8, 3
GIVEN: dict[str, int | None] = {"heads": None, "kv_heads": None, "head_dim": None, "layers": None}
ASKED: dict[str, Any] = {
    "lengths": [50], "batches": [2], "window": WINDOW, "sinks": SINKS, "backends": None,
    "phases": tuple(SHORT.values()), "skip": [],
    "device": "cpu", "dtype": "float32", "runs": 1, "limit_s": 1.0, "threads": 1, "seed": 0,
}  # fmt: skip


def a_key_too_few(query, key, value, frame, scoring):
    """What flash-attention's window would be without the token itself."""
    return attend(query, key, value, replace(frame, window=frame.window - 1), scoring)


def no_sinks(query, key, value, frame, scoring):
    return attend(query, key, value, replace(frame, sinks=0), scoring)


def wrong_gradient(query, key, value, frame, scoring):
    return attend(query, key.detach() + 0 * key, value, frame, scoring)


def not_a_number(query, key, value, frame, scoring):
    return attend(query, key, value, frame, scoring)[0] * float("nan"), None


@pytest.mark.parametrize(
    ("fault", "phase"),
    [(fault, phase) for fault in (a_key_too_few, no_sinks, not_a_number) for phase in ("forward", "backward")]
    + [(wrong_gradient, "backward"), (not_a_number, "attention"), (not_a_number, "model")],
)
def test_a_wrong_backend_is_not_timed(fault, phase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = replace(backends.BACKENDS["sdpa"], attend=fault)
    monkeypatch.setitem(backends.BACKENDS, "sdpa", wrong)
    monkeypatch.setattr("patches.attention.sdpa.attend", fault)
    backends.register()
    arguments = ["--shape", "tiny", "--lengths", "50", "--window", str(WINDOW), "--sinks", str(SINKS)]
    arguments += ["--phases", phase, "--backends", "sdpa", "--skip", "flex,static", "--runs", "1"]
    result = CliRunner().invoke(
        app, [*arguments, "--threads", "1", "--device", "cpu", "--output", str(tmp_path)]
    )
    monkeypatch.undo()
    backends.register()
    assert result.exit_code == 0, result.output
    report = Report.model_validate_json((tmp_path / "speed.json").read_text(encoding="utf-8"))
    own = next(row for row in report.rows if row.contender == "headroom sdpa")
    assert own.verdict == "wrong" and own.ms is None and "relative error" in own.reason
    assert any(row.verdict == "timed" for row in report.rows)


@pytest.mark.parametrize("computes", ["window + sinks", "window", "dense"])
@pytest.mark.parametrize("past", [0, 30])
def test_the_reference_is_the_mask(computes, past) -> None:
    tokens = 40 if past == 0 else 1
    query = torch.randn(1, 4, tokens, 8, dtype=torch.float64)
    key, value = (torch.randn(1, 2, past + tokens, 8, dtype=torch.float64) for _ in range(2))
    inputs = Inputs(query, key, value, past, WINDOW, SINKS)
    sizes = {"window + sinks": (WINDOW, SINKS), "window": (WINDOW, 0), "dense": (None, 0)}[computes]
    seen = visible(past + torch.arange(tokens), torch.arange(past + tokens), *sizes)
    scores = query @ key.repeat_interleave(2, 1).transpose(2, 3) * 8**-0.5
    want = torch.softmax(scores.masked_fill(~seen, -torch.inf), -1) @ value.repeat_interleave(2, 1)
    rows = inputs.sampled()
    torch.testing.assert_close(exact(inputs, computes, 0, rows)[0], want[0][:, rows])
    assert output_error(want, inputs, computes) < 1e-12
    assert output_error(want + 0.01, inputs, computes) > 1e-3


def test_costs_count_what_the_mask_shows() -> None:
    ask = build_ask(None, "tiny", GIVEN, **ASKED)
    row = Row(phase="forward", contender="x", computes="window + sinks", length=50, batch=2, verdict="timed")
    place = torch.arange(50)
    pairs = int(visible(place, place, WINDOW, SINKS).sum())
    assert costs_of(ask, row).flop == 4 * 2 * 8 * 64 * pairs
    dense = row.model_copy(update={"computes": "dense"})
    assert costs_of(ask, dense).flop == 4 * 2 * 8 * 64 * (50 * 51 // 2)
    states = 4 * 2 * 50 * (2 * 8 + 2 * 2) * 64
    assert costs_of(ask, row).moved_bytes == states
    both = costs_of(ask, row.model_copy(update={"phase": "forward + backward"}))
    assert both.flop == 3.5 * costs_of(ask, row).flop and both.moved_bytes == 2 * states
    decode = row.model_copy(update={"phase": "decode, attention"})
    assert costs_of(ask, decode).moved_bytes == 2 * 2 * (WINDOW + SINKS) * 2 * 64 * 4


def test_turns_and_their_arithmetic() -> None:
    order: list[str] = []
    works = {name: (lambda name=name: order.append(name)) for name in "ab"}
    times = in_turns(Clock(torch.device("cpu")), works, runs=3, limit_s=9.0, cold=False)
    assert "".join(order[-6:]) == "ababab"
    assert [len(values) for values in times.values()] == [3, 3]
    assert quartiles([4.0, 1.0, 3.0, 2.0]) == (2.0, 2.5, 3.0)
    assert paired_ratio([2.0, 4.0, 30.0], [1.0, 2.0]) == 2.0


@pytest.mark.parametrize(
    "family,own",
    [("mistral", {}), ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0})],
)
def test_the_dense_twin_of_a_model_that_slides_does_not(family, own, tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        family, vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, **own,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    twins = Twins(build_ask(str(tmp_path), None, GIVEN, **ASKED))
    assert not any(DynamicCache(config=twins.dense.config).is_sliding)
    assert all(DynamicCache(config=twins.sliding().config).is_sliding)
