"""Local documents take the hub's place and nothing else: prompts, targets and metrics are lm-eval's own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from lm_eval.tasks import TaskManager

from eval.checkpoint import Loaded
from eval.errors import EvalError
from eval.measures import tasks
from eval.run import evaluate
from eval.saved import compare_saved
from eval.sections import TasksSection
from eval.suite import Suite
from eval.tasks import catalog
from eval.tasks.local import LIBRARY, definitions

PASSAGE = 'he said , " i know the way home ,'
FOUNDRY: dict[str, list[dict[str, Any]]] = {
    "lambada_openai": [
        {"context": f"{PASSAGE}\n\nand you know the", "continuation": "way"},
        {"context": "the cat saw the dog and ran from the", "continuation": "dog"},
    ],
    "piqa": [
        {"query": "Question: dresser\n", "choices": ["use a pin.", "use a  pin"], "gold": 1},
        {"query": "Question: How do I open a jar?\n", "choices": ["Turn it.", "Burn it."], "gold": 0},
    ],
    "arc_easy": [
        {"query": "Question: Which is soft?", "choices": ["rock", "fur", "ice", "wood"], "gold": 1},
        {"query": "Question: Where is it? Choose.", "choices": ["here", "there", "up"], "gold": 0},
    ],
}
FOUNDRY["arc_challenge"] = FOUNDRY["arc_easy"]
HUB: dict[str, list[dict[str, Any]]] = {
    "lambada_openai": [
        {"text": f"{PASSAGE}\n\nand you know the way"},
        {"text": "the cat saw the dog and ran from the dog"},
    ],
    "piqa": [
        {"goal": "dresser", "sol1": "use a pin.", "sol2": "use a  pin", "label": 1},
        {"goal": "How do I open a jar?", "sol1": "Turn it.", "sol2": "Burn it.", "label": 0},
    ],
    "arc_easy": [
        {
            "id": "a",
            "question": "Which is soft?",
            "choices": {"text": ["rock", "fur", "ice", "wood"], "label": ["1", "2", "3", "4"]},
            "answerKey": "2",
        },
        {
            "id": "b",
            "question": "Where is it? Choose.",
            "choices": {"text": ["here", "there", "up"], "label": ["A", "B", "C"]},
            "answerKey": "A",
        },
    ],
}
HUB["arc_challenge"] = HUB["arc_easy"]
MADE = {
    "lambada_openai": ("lambada", [[(-1.5, True)], [(-4.0, False)]]),
    "piqa": ("piqa", [[(-3.0, False), (-2.0, False)], [(-9.0, False), (-2.0, False)]]),
    "arc_easy": (
        "arc",
        [[(-3.0, False)] * 3 + [(-1.0, False)], [(-1.0, False), (-2.0, False), (-3.0, False)]],
    ),
}
MADE["arc_challenge"] = MADE["arc_easy"]


def write(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> Path:
    for name, some in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in some)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def section(folder: Path, *names: str, **changes: Any) -> TasksSection:
    return TasksSection(names=list(names), data_dir=str(folder), **changes)


def local_task(folder: Path, name: str) -> Any:
    return catalog.manager_of(section(folder, name)).load([name])["tasks"][name]


def requests(task: Any, shots: int = 0) -> list[tuple[Any, ...]]:
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests()
    return [(request.request_type, *request.args) for request in task.instances]


@pytest.fixture
def from_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """lm-eval's task with nothing of ours, on rows as the hub has them."""

    def make(name: str) -> Any:
        split = datasets.Dataset.from_list(HUB[name])
        everything = {"train": split, "validation": split, "test": split}
        monkeypatch.setattr(datasets, "load_dataset", lambda *_args, **_kwargs: everything)
        manager = TaskManager(include_path=str(LIBRARY / MADE[name][0]), include_defaults=False)
        return manager.load([name])["tasks"][name]

    return make


@pytest.mark.parametrize("name", FOUNDRY)
@pytest.mark.parametrize("rows", [FOUNDRY, HUB], ids=["llm-foundry", "own-fields"])
def test_requests_targets_and_metrics_are_lm_evals_own(
    name: str, rows: Any, from_hub: Callable[[str], Any], tmp_path: Path
) -> None:
    mine, theirs = local_task(write(tmp_path, rows), name), from_hub(name)
    assert requests(mine) == requests(theirs)
    assert mine.higher_is_better() == theirs.higher_is_better()
    assert mine.aggregation() == theirs.aggregation()
    assert mine.OUTPUT_TYPE == theirs.OUTPUT_TYPE
    for own, hub, answers in zip(mine.eval_docs, theirs.eval_docs, MADE[name][1], strict=True):
        assert mine.doc_to_target(own) == theirs.doc_to_target(hub)
        scores = mine.process_results(own, answers)
        assert scores == theirs.process_results(hub, answers)
        assert set(scores) == set(mine.aggregation())


def test_the_prompts_are_the_published_ones(tmp_path: Path) -> None:
    folder = write(tmp_path, FOUNDRY)
    assert requests(local_task(folder, "lambada_openai"))[0] == (
        "loglikelihood",
        f"{PASSAGE}\n\nand you know the",
        " way",
    )
    assert requests(local_task(folder, "piqa"))[1][1:] == ("Question: dresser\nAnswer:", " use a  pin")
    assert requests(local_task(folder, "arc_easy"))[0][1:] == ("Question: Which is soft?\nAnswer:", " rock")


def test_examples_come_from_their_own_file(tmp_path: Path) -> None:
    folder = write(tmp_path, FOUNDRY)
    with pytest.raises(EvalError, match=r"'piqa': 1-shot .* has no piqa\.train\.jsonl"):
        catalog.check_section(section(folder, "piqa", num_fewshot=1))
    example = {"query": "Question: seen before\n", "choices": ["yes.", "no."], "gold": 0}
    (folder / "piqa.train.jsonl").write_text(json.dumps(example) + "\n")
    catalog.check_section(section(folder, "piqa", num_fewshot=1))
    prompts = {prompt for _, prompt, _ in requests(local_task(folder, "piqa"), shots=1)}
    assert prompts == {
        "Question: seen before\nAnswer: yes.\n\nQuestion: dresser\nAnswer:",
        "Question: seen before\nAnswer: yes.\n\nQuestion: How do I open a jar?\nAnswer:",
    }


def test_a_group_takes_local_documents_too(tmp_path: Path) -> None:
    folder = write(tmp_path, {name: FOUNDRY[name] for name in ("piqa", "arc_easy")})
    (tmp_path / "groups").mkdir()
    group = {
        "group": "pair",
        "task": ["piqa", "arc_easy"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (tmp_path / "groups" / "pair.yaml").write_text(json.dumps(group))
    local = definitions(catalog.local_of(section(folder, "pair")))
    manager = TaskManager(include_path=[str(tmp_path / "groups"), str(local)], include_defaults=False)
    loaded = manager.load(["pair"])
    assert set(loaded["tasks"]) == {"piqa", "arc_easy"}
    assert requests(loaded["tasks"]["piqa"]) == requests(local_task(folder, "piqa"))


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("piqa", '{"query": "Question: a\\n"', r"piqa\.jsonl', line 1: Expecting"),
        ("piqa", "3", "line 1: expected an object, got int"),
        ("piqa", '\n{"query": "a", "choices": ["x", "y"], "gold": 0}', "line 2: query 'a' must begin with"),
        ("piqa", '{"query": "Question: a\\n", "choices": ["x", "y"], "gold": 2}', "gold=2 must be the place"),
        ("piqa", '{"query": "Question: a\\n", "choices": ["x"], "gold": 0}', "choices: got 1, needs 2"),
        ("piqa", '{"choices": ["x", "y"], "gold": 0}', "line 1: key 'query' is missing"),
        ("lambada_openai", '{"context": "a b", "continuation": "c d"}', "'c d' must be one word"),
        ("arc_easy", "", "is empty"),
        ("hellaswag", '{"something": 1}', "does not fit task 'hellaswag': "),
    ],
)
def test_bad_files_are_refused_by_line(name: str, lines: str, message: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.jsonl").write_text(lines)
    with pytest.raises(EvalError, match=message) as caught:
        catalog.check_section(section(tmp_path, name))
    assert "\n" not in str(caught.value)


def test_a_folder_without_the_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match=r"absent' is not a folder"):
        catalog.check_section(section(tmp_path / "absent", "piqa"))
    write(tmp_path, {"piqa": FOUNDRY["piqa"]})
    with pytest.raises(EvalError, match=r"has no NAME\.jsonl for headroom_.*it has: piqa") as caught:
        catalog.check_section(section(tmp_path, "headroom_needle"))
    assert "\n" not in str(caught.value)


def test_contents_of_the_used_files_are_inputs(tmp_path: Path) -> None:
    folder = write(tmp_path, FOUNDRY)
    one = tasks.TASKS.inputs(section(folder, "piqa"))
    assert set(one["data_dir"]) == {"piqa"} and one["lm_eval"]
    with (folder / "arc_easy.jsonl").open("a") as file:
        file.write("\n")
    assert tasks.TASKS.inputs(section(folder, "piqa")) == one
    with (folder / "piqa.jsonl").open("a") as file:
        file.write(json.dumps(FOUNDRY["piqa"][0]) + "\n")
    two = tasks.TASKS.inputs(section(folder, "piqa"))
    (folder / "piqa.train.jsonl").write_text(json.dumps(FOUNDRY["piqa"][0]) + "\n")
    three = tasks.TASKS.inputs(section(folder, "piqa"))
    assert len({json.dumps(inputs) for inputs in (one, two, three)}) == 3


def test_they_run_and_say_where_from(loaded_dense: Loaded, ask: Callable[..., Any], tmp_path: Path) -> None:
    folder = write(tmp_path, FOUNDRY)
    outcome = tasks.run(ask(loaded_dense, section(folder, "lambada_openai", "piqa", "arc_easy")))
    assert {metric.key: metric.n for metric in outcome.metrics} == {
        "lambada_openai/perplexity": 2,
        "lambada_openai/acc": 2,
        "piqa/acc": 2,
        "piqa/acc_norm": 2,
        "arc_easy/acc": 2,
        "arc_easy/acc_norm": 2,
    }
    # The perplexity is no mean of its documents' scores, so nothing may be paired up.
    paired = {metric.key for metric in outcome.metrics if metric.per_sample is not None}
    assert paired == {metric.key for metric in outcome.metrics} - {"lambada_openai/perplexity"}
    for name, how in outcome.detail["tasks"].items():
        assert how["data"].startswith(str(folder / f"{name}.jsonl")) and "sha256" in how["data"]
        assert how["num_fewshot"] == 0
    assert outcome.samples[0]["prompt"]


def test_other_documents_do_not_stand_in_one_table(dense: Path, tmp_path: Path) -> None:
    folder, outputs = write(tmp_path, FOUNDRY), [tmp_path / "before", tmp_path / "after"]
    for output in outputs:
        evaluate([(output.name, dense)], Suite(tasks=section(folder, "piqa")), output)
        write(folder, {"piqa": FOUNDRY["piqa"][:1]})
    compare_saved(outputs[:1] * 2, tmp_path / "both", "")
    with pytest.raises(EvalError, match="its documents of piqa differ from the first folder's"):
        compare_saved(outputs, tmp_path / "both", "")
