"""The offline lm-eval tasks run on a tiny random model, and truncation is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from convert import Request, convert
from eval.checkpoint import Loaded, find_checkpoint, load
from eval.errors import EvalError
from eval.lm import StrictLM
from eval.measures import tasks
from eval.parallel import Peers
from eval.report.tasks import task_lines
from eval.sections import TasksSection
from eval.tasks.catalog import own_task_names
from eval.tasks.documents import ending, needle


@pytest.fixture(scope="module")
def long_model(make_checkpoint: Callable[..., Path]) -> Loaded:
    folder = make_checkpoint(max_position_embeddings=2048)
    return load(find_checkpoint("long", folder), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("bos", ["tokenizer", "always"])
def test_own_tasks_run_offline(long_model: Loaded, ask: Callable[..., Any], bos: str) -> None:
    section = TasksSection.model_validate({"names": own_task_names(), "limit": 3, "bos": bos})
    outcome = tasks.run(ask(long_model, section))
    kinds = {task: how["output_type"] for task, how in outcome.detail["tasks"].items()}
    assert kinds == {"headroom_ending": "multiple_choice", "headroom_needle": "generate_until"}
    assert {how["bos"] for how in outcome.detail["tasks"].values()} == {bos}
    assert {metric.key for metric in outcome.metrics} == {
        "headroom_ending/acc",
        "headroom_needle/exact_match,first-number",
    }
    for metric in outcome.metrics:
        assert metric.n == 3
        assert metric.value is not None and 0 <= metric.value <= 100
        assert metric.per_sample is not None and len(metric.per_sample) == 3
    assert len(outcome.samples) == 6


@pytest.mark.parametrize("name", own_task_names())
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


def test_scores_do_not_depend_on_the_batch_size(long_model: Loaded, ask: Callable[..., Any]) -> None:
    found = {}
    for size in (None, 1, 3):
        section = TasksSection(names=own_task_names(), limit=4)
        outcome = tasks.run(replace(ask(long_model, section), batch_size=size))
        noted = {how["batch_size"] for how in outcome.detail["tasks"].values()}
        assert noted == {size} if size else min(noted) > 4
        found[size] = [(metric.key, metric.per_sample) for metric in outcome.metrics]
        found[size] += [sample["answer"] for sample in outcome.samples if sample["task"] == "headroom_needle"]
    assert found[None] == found[1] == found[3]


def test_a_window_is_in_force_and_its_cache_bounded(
    dense: Path, tmp_path: Path, ask: Callable[..., Any]
) -> None:
    convert(Request(str(dense), tmp_path / "windowed", window=16, sinks=2, global_layers="every:2"))
    loaded = load(find_checkpoint("windowed", tmp_path / "windowed"), torch.device("cpu"), torch.float32)
    outcome = tasks.run(ask(loaded, TasksSection(names=own_task_names(), limit=2)))
    needle_run, ending_run = (
        outcome.detail["tasks"]["headroom_needle"],
        outcome.detail["tasks"]["headroom_ending"],
    )
    window = "the window of 16 + 2 sinks in 2 of 3 layers (windowed_auto)"
    assert ending_run["through"] == f"one pass through {window}, no cache"
    assert needle_run["through"] == f"generate and its WindowedCache, prefill through {window}"
    shape = loaded.checkpoint.shape
    longest = max(len(loaded.tokenizer.encode(row["prompt"])) for row in needle()["test"].select(range(2)))
    at_most = shape.kv_bytes(longest + 12, element_bytes=4)
    assert at_most is not None and needle_run["cache_bytes"] <= 1.1 * at_most
    lines = task_lines(SimpleNamespace(details={"tasks": {"mine": outcome.detail}}))  # type: ignore[arg-type]
    assert any(line.startswith("headroom_needle on mine: ") and "WindowedCache" in line for line in lines)

    request = Instance("loglikelihood", {}, (ending()["test"][0]["context"], " tree"), 0)
    (score, _), *_ = StrictLM(loaded, None, False, Peers()).loglikelihood([request])
    prompt, answer = (loaded.tokenizer.encode(part) for part in request.args)
    with torch.no_grad():
        scores = loaded.model(torch.tensor([prompt + answer]), use_cache=False).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    own = sum(float(scores[place, token]) for place, token in zip(places, answer, strict=True))
    assert score == pytest.approx(own, abs=1e-4)
    dense_lm = StrictLM(
        load(find_checkpoint("d", dense), torch.device("cpu"), torch.float32), None, False, Peers()
    )
    assert abs(dense_lm.loglikelihood([request])[0][0] - score) > 1e-3


def test_rolling_texts_are_cut_into_windows_that_fit(
    make_checkpoint: Callable[..., Path],
) -> None:
    loaded = load(
        find_checkpoint("short", make_checkpoint(max_position_embeddings=24)),
        torch.device("cpu"),
        torch.float32,
    )
    text = needle()["test"][0]["prompt"]
    ids = loaded.tokenizer.encode(text)
    lm = StrictLM(loaded, None, False, Peers())
    (score,) = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    first, expected = ids[:24], 0.0
    with torch.no_grad():
        scores = loaded.model(torch.tensor([loaded.bos + first])).logits[0].log_softmax(-1)
    expected = sum(float(scores[place, token]) for place, token in enumerate(first))
    assert len(ids) > 24 and score < expected
    (short,) = lm.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (loaded.tokenizer.decode(first),), 0)]
    )
    assert short == pytest.approx(expected, abs=1e-3)
    assert lm.notes["loglikelihood_rolling"]["batch_size"] > 1


def test_chat_template_on_off_and_absent(
    make_checkpoint: Callable[..., Path], ask: Callable[..., Any]
) -> None:
    folder = make_checkpoint(max_position_embeddings=2048)
    on = TasksSection(names=["headroom_ending"], limit=1, chat_template=True)
    with pytest.raises(EvalError, match="chat template: the tokenizer of 'plain' has none"):
        tasks.check(find_checkpoint("plain", folder), on)
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %} [assistant]"
    (folder / "chat_template.jinja").write_text(template)
    checkpoint = find_checkpoint("chat", folder)
    tasks.check(checkpoint, on)
    loaded = load(checkpoint, torch.device("cpu"), torch.float32)
    story = ending()["test"][0]["context"]
    for section, prompt in (
        (on, f"[user] {story} [assistant]"),
        (TasksSection(names=["headroom_ending"], limit=1), story),
    ):
        outcome = tasks.run(ask(loaded, section))
        assert outcome.samples[0]["prompt"] == prompt
        assert outcome.detail["tasks"]["headroom_ending"]["chat_template"] is section.chat_template


def test_fewshot_prompts(long_model: Loaded, ask: Callable[..., Any]) -> None:
    for shots in (0, 2):
        outcome = tasks.run(
            ask(long_model, TasksSection(names=["headroom_ending"], limit=1, num_fewshot=shots))
        )
        assert outcome.samples[0]["prompt"].count("looked for the") == shots + 1
        assert outcome.detail["tasks"]["headroom_ending"]["num_fewshot"] == shots


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
