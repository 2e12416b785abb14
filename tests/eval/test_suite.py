"""Suites are read strictly, and errors help."""

from dataclasses import replace
from pathlib import Path

import pytest

from eval.checkpoint import Loaded
from eval.errors import EvalError
from eval.measures import MEASURES
from eval.retrieval import KINDS
from eval.sections import TasksSection
from eval.strict import parse_strict
from eval.suite import SUITES, Suite, load_suite, narrow, suite_names


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_of_the_package_reads_and_fits_together(name: str, loaded_dense: Loaded) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert f"--suite {name}" in (SUITES / f"{name}.yaml").read_text()
    assert set(suite.sections()) <= set(MEASURES)
    endless = replace(loaded_dense.checkpoint, allowed_length=None)
    for narrowed in (suite, narrow(suite, lengths=[64, 256], limit=2), narrow(suite, lengths=[300_000])):
        for measure, section in narrowed.sections().items():
            MEASURES[measure].check(endless, section)


def test_the_suites_are_those_of_the_workloads() -> None:
    assert suite_names() == ["chat", "documents", "full", "quick"]
    full = load_suite("full")
    assert set(full.sections()) == set(MEASURES)
    assert full.needle is not None and full.needle.kinds == list(KINDS)
    chat, documents = load_suite("chat").needle, load_suite("documents").needle
    assert chat is not None and (min(chat.lengths), max(chat.lengths)) == (2048, 8192)
    assert documents is not None and (min(documents.lengths), max(documents.lengths)) == (65536, 131072)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({"needel": {}}, ["'needel'", "did you mean 'needle'?"]),
        ({"needle": {"length": [512]}}, ["'length'", "did you mean 'lengths'?", "(in needle)"]),
        ({"needle": {"depths": [1.5]}}, ["needle.depths.0", "1.5", "less than or equal to 1"]),
        ({"perplexity": {"contexts": 1}}, ["perplexity.contexts", "1", "2"]),
        ({"needle": {"kinds": ["passkeys"]}}, ["needle.kinds", "did you mean 'passkey'?", "linked-detail"]),
        ({"consistency": {"sample": 2}}, ["'sample'", "did you mean 'samples'?", "(in consistency)"]),
        ({"reach": {"longest": 1}}, ["reach.longest", "16"]),
        ({"agreement": {"top_k": 1}}, ["agreement.top_k", "2"]),
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
    suite = narrow(load_suite("quick"), [64, 32], ["arc_easy"], 3, kinds=["passkey", "common-words"])
    assert suite.needle is not None and suite.needle.kinds == ["passkey", "common-words"]
    assert suite.consistency is not None and suite.consistency.length == 64 and suite.consistency.samples == 3
    assert suite.needle is not None and suite.needle.lengths == [32, 64] and suite.needle.samples == 3
    assert suite.perplexity is not None and suite.perplexity.length == 64 and suite.perplexity.contexts == 3
    assert suite.tasks is not None and suite.tasks.names == ["arc_easy"] and suite.tasks.limit == 3
    assert suite.footprint is not None and suite.footprint.lengths == [32, 64]


def test_chat_at_4k_fits_a_model_of_4k(loaded_dense: Loaded) -> None:
    suite = narrow(load_suite("chat"), lengths=[2048, 4096])
    assert suite.speed is not None
    assert suite.speed.length + suite.speed.decode_tokens + 1 == 4096
    checkpoint = replace(loaded_dense.checkpoint, allowed_length=4096)
    for name, section in suite.sections().items():
        MEASURES[name].check(checkpoint, section)


def test_a_cache_of_less_than_what_is_decoded_is_not_measured() -> None:
    with pytest.raises(EvalError, match=r"footprint.lengths.0: got 3"):
        parse_strict(Suite, {"footprint": {"lengths": [3, 8]}})


def test_lengths_leave_out_what_they_leave_no_room_for() -> None:
    suite = narrow(load_suite("full"), lengths=[4096])
    assert suite.perplexity is not None and suite.perplexity.past is None and suite.perplexity.stride is None
    assert suite.agreement is not None and suite.agreement.past is None
    kept = narrow(load_suite("full"), lengths=[100_000])
    assert kept.perplexity is not None and (kept.perplexity.past, kept.perplexity.stride) == (8192, 65536)


def test_kinds_give_a_suite_its_retrieval() -> None:
    suite = narrow(Suite(), kinds=["needle"])
    assert suite.needle is not None and suite.needle.kinds == ["needle"]


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
