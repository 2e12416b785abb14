"""Suites are read strictly, and errors help."""

from pathlib import Path

import pytest

from eval.errors import EvalError
from eval.sections import TasksSection
from eval.strict import parse_strict
from eval.suite import Suite, load_suite, narrow, suite_names


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_of_the_package_reads(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert suite.sections()


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({"needel": {}}, ["'needel'", "did you mean 'needle'?"]),
        ({"needle": {"length": [512]}}, ["'length'", "did you mean 'lengths'?", "(in needle)"]),
        ({"needle": {"depths": [1.5]}}, ["needle.depths.0", "1.5", "less than or equal to 1"]),
        ({"perplexity": {"contexts": 1}}, ["perplexity.contexts", "1", "2"]),
    ],
)
def test_an_error_names_the_place_and_the_nearest_key(data: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(EvalError) as caught:
        parse_strict(Suite, data, where="suite mine.yaml")
    message = str(caught.value)
    assert "\n" not in message
    for part in ["suite mine.yaml: ", *parts]:
        assert part in message


def test_an_unknown_suite_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="did you mean 'quick'"):
        load_suite("quikc")
    with pytest.raises(EvalError, match="does not exist"):
        load_suite(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("needle: [")
    with pytest.raises(EvalError, match="not readable as YAML"):
        load_suite(broken)


def test_paths_are_relative_to_the_suite_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("text: words.txt\ntasks: {names: [piqa], data_dir: data, limit: 3}\n")
    suite = load_suite(tmp_path / "mine.yaml")
    assert suite.text == str(tmp_path / "words.txt")
    assert (
        suite.tasks is not None and suite.tasks.data_dir == str(tmp_path / "data") and suite.tasks.limit == 3
    )


def test_options_narrow_a_suite() -> None:
    suite = narrow(load_suite("quick"), [64, 32], ["arc_easy"], 3)
    assert suite.needle is not None and suite.needle.lengths == [32, 64] and suite.needle.samples == 3
    assert suite.perplexity is not None and suite.perplexity.length == 64 and suite.perplexity.contexts == 3
    assert suite.tasks is not None and suite.tasks.names == ["arc_easy"] and suite.tasks.limit == 3
    assert suite.footprint is not None and suite.footprint.lengths == [32, 64]


def test_named_tasks_run_as_lm_eval_runs_them() -> None:
    quick = load_suite("quick")
    assert quick.tasks is not None and quick.tasks.bos == "always" and quick.tasks.limit == 40
    options = {"data_dir": "here", "num_fewshot": 5, "chat_template": True, "backend": "vllm"}
    suite = narrow(quick, tasks=["arc_easy"], task_options=options)
    assert suite.tasks == TasksSection(names=["arc_easy"], bos="tokenizer", limit=None, **options)
    kept = narrow(quick, task_options={"num_fewshot": 2}).tasks
    assert kept == quick.tasks.model_copy(update={"num_fewshot": 2})
    with pytest.raises(EvalError, match="data_dir: suite 'bare' has no lm-eval tasks"):
        narrow(Suite(name="bare"), task_options={"data_dir": "here"})
