"""The offline lm-eval tasks run on a tiny random model, and truncation is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.checkpoint import Loaded, find_checkpoint, load
from eval.errors import EvalError
from eval.measures import tasks
from eval.sections import TasksSection
from eval.tasks.documents import ending, needle


@pytest.fixture(scope="module")
def long_model(make_checkpoint: Callable[..., Path]) -> Loaded:
    folder = make_checkpoint(max_position_embeddings=2048)
    return load(find_checkpoint("long", folder), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("bos", ["tokenizer", "always"])
def test_own_tasks_run_offline(long_model: Loaded, ask: Callable[..., Any], bos: str) -> None:
    section = TasksSection.model_validate({"names": tasks.own_task_names(), "limit": 3, "bos": bos})
    outcome = tasks.run(ask(long_model, section))
    kinds = outcome.detail["output_types"]
    assert kinds == {"headroom_ending": "multiple_choice", "headroom_needle": "generate_until"}
    assert {metric.key for metric in outcome.metrics} == {
        "headroom_ending/acc",
        "headroom_needle/exact_match,first-number",
    }
    for metric in outcome.metrics:
        assert metric.n == 3
        assert metric.value is not None and 0 <= metric.value <= 100
        assert metric.per_sample is not None and len(metric.per_sample) == 3
    assert len(outcome.samples) == 6


@pytest.mark.parametrize("name", tasks.own_task_names())
def test_an_overlong_request_is_refused(
    name: str, make_checkpoint: Callable[..., Path], ask: Callable[..., Any]
) -> None:
    folder = make_checkpoint(max_position_embeddings=64)
    short = load(find_checkpoint("short", folder), torch.device("cpu"), torch.float32)
    with pytest.raises(EvalError, match=rf"task '{name}': .* longer than 'short' allows \(64"):
        tasks.run(ask(short, TasksSection(names=[name], limit=2)))


def test_unknown_tasks_name_the_nearest(long_model: Loaded) -> None:
    with pytest.raises(EvalError, match="did you mean 'headroom_needle'"):
        tasks.check(long_model.checkpoint, TasksSection(names=["headroom_nedle"]))


def test_documents_are_seeded_and_answerable() -> None:
    assert needle()["test"][:] == needle()["test"][:]
    for row in needle()["test"]:
        assert row["prompt"].count(row["value"]) == 1
    for row in ending()["test"]:
        right = row["choices"][row["gold"]]
        assert right in row["context"]
        assert len(set(row["choices"])) == 4
        wrong = [choice for choice in row["choices"] if choice != right]
        assert not any(f" {choice} " in row["context"] for choice in wrong)
