"""A recipe in two processes of ``accelerate launch``: the same weights, losses and scores as in one."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes.launching import (
    heldout_of,
    launch,
    losses_of,
    run_alone,
    weights_of,
    write_recipe,
    write_source,
)

TRAINED = 8
"""Projections of the tiny source that its recipe trains: q, k, v and o of two layers."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "llama")


@pytest.fixture(scope="module")
def alone(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    return run_alone(write_recipe(folder, source), folder / "run")


def scores_of(run: Path) -> dict[str, dict[str, Any]]:
    rows = json.loads((run / "results.json").read_text())["rows"]
    return {row["key"]: {name: cell["value"] for name, cell in row["cells"].items()} for row in rows}


def history_of(run: Path) -> dict[str, Any]:
    history: dict[str, Any] = json.loads((run / "uptrained" / "config.json").read_text())["uptraining"]
    return {name: value for name, value in history.items() if name != "recipe"}


def assert_same_run(run: Path, alone: Path, done: subprocess.CompletedProcess[str]) -> None:
    """Two processes that shared the rows of every step ended where one did that took them in turn."""
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report: ") == 1, "the main process alone reports"
    before, wanted, got = weights_of(alone, "converted"), weights_of(alone), weights_of(run)
    assert sum(not torch.equal(before[name], wanted[name]) for name in before) == TRAINED
    assert got.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], atol=1e-5, rtol=1e-4, msg=name)
    assert len(losses_of(alone)) == 2
    for ours, theirs in zip(losses_of(run), losses_of(alone), strict=True):
        assert ours == pytest.approx(theirs, abs=2e-4)
    assert heldout_of(run) == pytest.approx(heldout_of(alone), abs=2e-4)
    assert heldout_of(alone).keys() == {0, 2, 4}
    # Rows have some padding, which is not counted.
    assert 0.9 * 4 * 4 * 48 < history_of(run)["tokens"] == history_of(alone)["tokens"] <= 4 * 4 * 48
    wanted_scores = scores_of(alone)
    for key, cells in scores_of(run).items():
        assert cells == pytest.approx(wanted_scores[key], rel=1e-4), key


@pytest.mark.slow
def test_two_processes_with_whole_models_train_as_one(source: Path, alone: Path, tmp_path: Path) -> None:
    done = launch(write_recipe(tmp_path, source, accumulate=2), tmp_path / "run", "--multi_gpu")
    assert_same_run(tmp_path / "run", alone, done)
    assert (tmp_path / "run" / "training" / "checkpoint-4" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.thorough
def test_two_processes_whose_students_teach_themselves_train_as_one(
    source: Path, alone: Path, tmp_path: Path
) -> None:
    changes = {"accumulate": 2, "teacher": {"kind": "shared"}}
    done = launch(write_recipe(tmp_path, source, **changes), tmp_path / "run", "--multi_gpu")
    assert_same_run(tmp_path / "run", alone, done)


@pytest.mark.slow
@pytest.mark.thorough
def test_two_processes_ask_a_saved_teacher_once(source: Path, tmp_path: Path) -> None:
    changes = {"attention_weight": 0.0, "teacher": {"kind": "saved", "top_k": 8}}
    alone = run_alone(write_recipe(tmp_path / "alone", source, **changes), tmp_path / "alone" / "run")
    file = write_recipe(tmp_path / "two", source, accumulate=2, **changes)
    done = launch(file, tmp_path / "two" / "run", "--multi_gpu")
    assert_same_run(tmp_path / "two" / "run", alone, done)
    saved = [
        {path.name: path.stat().st_size for path in (run / "teacher").glob("*/*.safetensors")}
        for run in (alone, tmp_path / "two" / "run")
    ]
    # A row is in one file, whichever process asked: headers apart, there are as many bytes.
    assert len(saved[0]) == 1 and len(saved[1]) == 2
    assert sum(saved[1].values()) - sum(saved[0].values()) in range(-200, 200)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "options"),
    [
        pytest.param({}, [], id="plain"),
        pytest.param(
            {"gradient_checkpointing": True},
            ["--fsdp_offload_params", "true"],
            id="checkpointed-offloaded",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_two_processes_with_halves_of_the_models_train_as_one(
    source: Path, alone: Path, tmp_path: Path, changes: dict[str, Any], options: list[str]
) -> None:
    done = launch(write_recipe(tmp_path, source, accumulate=2, **changes), tmp_path / "run", *options)
    assert_same_run(tmp_path / "run", alone, done)
    # Each process wrote its half: nobody had the whole.
    halves = list((tmp_path / "run" / "training" / "checkpoint-4").glob("optimizer_0/__[01]_0.distcp"))
    assert len(halves) == 2
    assert not list((tmp_path / "run" / "training").rglob("adapter_model.safetensors"))


@pytest.mark.slow
@pytest.mark.thorough
def test_halves_that_were_killed_go_on(source: Path, alone: Path, tmp_path: Path) -> None:
    file, run = write_recipe(tmp_path, source, accumulate=2), tmp_path / "run"
    assert launch(file, run).returncode == 0
    for gone in (run / "uptrained", run / "training" / "checkpoint-4"):
        shutil.rmtree(gone)
    refused = launch(file, run, "--multi_gpu", resume=True)
    assert refused.returncode != 0
    assert "had 2 processes with a part of each model, this run has 2 processes, and would" in refused.stderr
    done = launch(file, run, resume=True)
    assert_same_run(run, alone, done)
    assert "uptrain: resumed after step 2" in done.stdout


@pytest.mark.slow
@pytest.mark.thorough
def test_halves_in_bfloat16_train_nearly_as_one(source: Path, alone: Path, tmp_path: Path) -> None:
    done = launch(write_recipe(tmp_path, source, accumulate=2, bf16=True), tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    for ours, theirs in zip(losses_of(tmp_path / "run"), losses_of(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=0.03)
    wanted, got = weights_of(alone), weights_of(tmp_path / "run")
    assert all(got[name].isfinite().all() and got[name].dtype == wanted[name].dtype for name in wanted)


@pytest.mark.slow
@pytest.mark.thorough
def test_a_mistake_ends_every_process_with_one_line_each(source: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    done = launch(write_recipe(tmp_path, source), tmp_path / "run", "--multi_gpu")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "is not empty: add --resume" in line]
    # The launcher may end one of the two while the other says it.
    assert {line.partition(": ")[0] for line in said} <= {"error", "error in process 1"} and said
    assert done.stderr.count("exitcode  : 2 ") >= 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]
