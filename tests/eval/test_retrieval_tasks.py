"""Every kind of retrieval as a task of lm-eval: lengths from its metadata, counted in the model's tokens."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from eval.checkpoint import Loaded, find_checkpoint, load
from eval.errors import EvalError
from eval.lm import StrictLM
from eval.parallel import Peers
from eval.retrieval import KINDS
from eval.tasks.retrieval import documents

FOLDER = Path(documents.__file__).parent
NAMES = {name: f"headroom_retrieval_{name.replace('-', '_')}" for name in KINDS}


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[..., Path]) -> Loaded:
    folder = make_checkpoint(max_position_embeddings=448)
    return load(find_checkpoint("small", folder), torch.device("cpu"), torch.float32)


def test_every_kind_has_a_task_and_the_group_has_them_all() -> None:
    for name, task in NAMES.items():
        content = yaml.safe_load((FOLDER / f"{name.replace('-', '_')}.yaml").read_text())
        assert content == {"include": "shared.yaml", "task": task, "dataset_kwargs": {"kind": name}}
    group = yaml.safe_load((FOLDER / "all.yaml").read_text())
    assert group["task"] == list(NAMES.values())


def test_the_room_for_the_answer_is_what_is_generated() -> None:
    text = (FOLDER / "shared.yaml").read_text().replace("!function ", "")
    shared = yaml.safe_load(text)
    assert shared["generation_kwargs"]["max_gen_toks"] == documents.ANSWER
    listed = {metric["metric"] for metric in shared["metric_list"]}
    assert listed == {"found", *(f"found@{length}" for length in documents.OWN_METRICS)}


@pytest.mark.parametrize("name", KINDS)
def test_documents_fill_their_length_and_no_more(name: str, model: Loaded) -> None:
    made = documents.make(name, [400, 448], samples=3, digits=4, pretrained=str(model.checkpoint.path))[
        "test"
    ]
    assert [row["length"] for row in made] == [400] * 3 + [448] * 3
    assert [row["depth"] for row in made] == [0.0, 0.5, 1.0] * 2
    for row in made:
        tokens = 1 + len(model.tokenizer.encode(row["prompt"], add_special_tokens=False)) + documents.ANSWER
        assert row["length"] - 2 * documents.RECUT <= tokens <= row["length"]
        assert documents.score(row, [row["answer"]])["found"] == 1.0
        assert documents.score(row, [""])["found"] == 0.0
    again = documents.make(name, [400, 448], samples=3, digits=4, tokenizer=str(model.checkpoint.path))[
        "test"
    ]
    assert made[:] == again[:]


def test_lm_eval_runs_them_with_its_metadata(model: Loaded) -> None:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    metadata = {"tokenizer": str(model.checkpoint.path), "max_seq_lengths": [256, 448], "samples": 2}
    manager = TaskManager(include_path=str(FOLDER.parent), include_defaults=False, metadata=metadata)
    names = [NAMES["needle"], NAMES["passkey"]]
    results: Any = simple_evaluate(
        model=StrictLM(model, 4, True, Peers()), tasks=names, task_manager=manager, bootstrap_iters=10
    )
    for name in names:
        scores = results["results"][name]
        assert scores["found,none"] == 0.0 and "found_stderr,none" in scores
        assert "found@256,none" in scores and "found@512,none" not in scores
        assert results["n-samples"][name]["effective"] == 4


def test_what_cannot_be_made_is_said(model: Loaded) -> None:
    with pytest.raises(EvalError, match="need a tokenizer: give --model_args pretrained=PATH"):
        documents.make("needle", version=1.0)
    with pytest.raises(EvalError, match="unknown kind 'passkeys': did you mean 'passkey'"):
        documents.make("passkeys", tokenizer=str(model.checkpoint.path))
