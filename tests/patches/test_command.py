"""``python -m patches``: it lists what the backends say of themselves, and fails where one is off."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from patches import __main__ as command
from patches.attention import eager
from patches.attention.backends import BACKENDS
from patches.cache.policies import POLICIES
from patches.check.cases import Case, matrix
from patches.listing import HEAD_DIMS, served


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["python -m patches", *words])
    code = command.main()
    return code, *capsys.readouterr()


def test_list_names_every_backend_and_why_it_cannot_run(monkeypatch, capsys):
    code, said, _ = run(monkeypatch, capsys, "list")
    assert code == 0
    for name, backend in BACKENDS.items():
        assert name in said and backend.requested_as in said
    if not torch.cuda.is_available():
        assert "there is no CUDA device" in said and "no such device" in said


def test_list_says_what_every_cache_policy_is_and_holds(monkeypatch, capsys):
    monkeypatch.setattr(command, "LOG_WIDTH", 500)
    _, said, _ = run(monkeypatch, capsys, "list")
    for name, policy in POLICIES.items():
        keeps, holds = (line for line in said.splitlines() if line.startswith(f"  {name} "))
        assert policy.summary in keeps and ", ".join(policy.kinds) in keeps
        assert keeps.split()[-6:] == [
            "yes" if able else "no"
            for able in (
                policy.frees, policy.exact, policy.needs_scores, policy.padding, policy.beam, policy.compiles
            )
        ]  # fmt: skip
        assert all(words in holds for words in (policy.formula, policy.peak, policy.crop))


def test_the_selection_follows_the_refusals(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    rows = list(served())
    found = {
        (row.device, row.dtype, row.head_dims): row.by_rule for row in rows if "softcap" not in row.calls
    }
    assert found["cuda", "float16, bfloat16", "32-256"] != "sdpa"
    assert found["cuda", "float16, bfloat16", f"{HEAD_DIMS[-1]}"] == "sdpa"
    assert {row.by_rule for row in rows if row.device == "cpu"} == {"sdpa"}
    assert all(row.here in BACKENDS for row in rows if row.device == "cpu")


@pytest.mark.thorough
def test_quick_check_passes_in_a_process_of_its_own():
    words = [sys.executable, "-m", "patches", "check", "--quick", "--backend", "sdpa", "--device", "cpu"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pass" in done.stdout and "FAIL" not in done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_every_backend_of_a_gpu_is_exact(monkeypatch, capsys):
    code, said, _ = run(monkeypatch, capsys, "check", "--quick", "--device", "cuda")
    assert code == 0, said


@pytest.mark.parametrize("fault", ["output", "raise", "nan"])
def test_a_backend_that_is_off_fails(fault, monkeypatch, capsys):
    def attend(query, key, value, frame, scoring):
        if fault == "raise":
            raise RuntimeError("no such kernel")
        output, weights = eager.attend(query, key, value, frame, scoring)
        return output * (torch.nan if fault == "nan" else 1.1), weights

    monkeypatch.setitem(BACKENDS, "eager", replace(BACKENDS["eager"], attend=attend))
    monkeypatch.setattr(command, "matrix", lambda quick: [Case("one", (5,)), Case("two", (9, 1))])
    code, said, _ = run(monkeypatch, capsys, "check", "--backend", "eager", "--device", "cpu")
    assert code == 1
    assert "FAIL" in said and "failed: eager, cpu, float32: one" in said


def test_a_backend_that_refuses_everything_has_not_passed(monkeypatch, capsys):
    silent = replace(BACKENDS["eager"], refusal=lambda *_: "it is asleep")
    monkeypatch.setitem(BACKENDS, "eager", silent)
    monkeypatch.setattr(command, "matrix", lambda quick: [Case("one", (5,))])
    code, said, _ = run(monkeypatch, capsys, "check", "--backend", "eager", "--device", "cpu")
    assert code == 1 and "served no case on cpu: eager" in said


@pytest.mark.parametrize(
    "words,said",
    [
        (["--backend", "flahs"], "did you mean 'flash'?"),
        (["--device", "tpu"], "choose from cpu, cuda"),
        (["--fast"], "No such option"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line_and_code_2(words, said, monkeypatch, capsys):
    code, _, error = run(monkeypatch, capsys, "check", *words)
    assert code == 2 and said in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_missing_backend_says_why(monkeypatch, capsys):
    absent = replace(BACKENDS["flash"], missing=lambda: "the GPU is on holiday")
    monkeypatch.setitem(BACKENDS, "flash", absent)
    code, _, error = run(monkeypatch, capsys, "check", "--backend", "flash")
    assert code == 2 and "the GPU is on holiday" in error


def test_cases_are_told_apart_and_cover_every_layout():
    for quick in (True, False):
        cases = matrix(quick)
        assert len({case.about for case in cases}) == len(cases)
        assert any(case.padded for case in cases) and any(case.packed for case in cases)
        assert any(case.passes[-1] == 1 for case in cases) and any(min(case.passes) > 1 for case in cases)
