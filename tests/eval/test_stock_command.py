"""Tasks by another road: the stock ``lm_eval`` command gives the same numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.results import Results
from eval.run import evaluate
from eval.strict import parse_strict
from eval.suite import Suite

ROOT = Path(__file__).parents[2]
TINY = ROOT / "recipes" / "tiny" / "checkpoint"
SHARED = ROOT.parent / "shared" / "data"
OWN = ["headroom_ending", "headroom_needle"]

STOCK: dict[str, dict[str, Any]] = {
    "lambada_openai": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + continuation}}",
        "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}],
    },
    "piqa": {"doc_to_text": "{{query}}Answer:"},
    "arc_easy": {"doc_to_text": "{{query}}\nAnswer:"},
}
"""The tasks as somebody would write them who has nothing but the files of mosaicml/llm-foundry."""
CHOICE = {"output_type": "multiple_choice", "doc_to_target": "{{gold}}", "doc_to_choice": "{{choices}}"}
STORY = "once upon a time there was a little cat. the cat"
ROWS: dict[str, list[dict[str, Any]]] = {
    "lambada_openai": [
        {"context": f"{STORY} had a ball. one day the cat lost the", "continuation": word}
        for word in ("ball", "cat", "day", "tree")
    ],
    "piqa": [
        {
            "query": f"Question: what did the cat {verb}?\n",
            "choices": ["the ball", "a little tree"],
            "gold": gold,
        }
        for verb, gold in (("see", 0), ("like", 1), ("find", 1))
    ],
    "arc_easy": [
        {
            "query": f"Question: who is {what}?",
            "choices": ["the cat", "the dog", "a tree", "mom"],
            "gold": gold,
        }
        for what, gold in (("little", 0), ("happy", 3), ("tall", 2))
    ],
}


def write_stock(folder: Path, data: Path) -> None:
    """One YAML file per task, in ``folder``, over the files in ``data``."""
    acc = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
    for name, own in STOCK.items():
        base = {
            "task": f"stock_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data / f"{name}.jsonl")}},
            "test_split": "test",
        }
        task = base | ({} if "output_type" in own else CHOICE) | own
        task["metric_list"] = [acc, *own.get("metric_list", [])]
        if "doc_to_choice" in task:
            task["metric_list"].append({**acc, "metric": "acc_norm"})
        (folder / f"{name}.yaml").write_text(json.dumps(task))


def lm_eval(checkpoint: Path, include: Path, names: list[str], output: Path, limit: int) -> dict[str, Any]:
    """What the stock command writes as its results."""
    command = [str(Path(sys.executable).with_name("lm_eval")), "--model", "hf", "--tasks", ",".join(names)]
    command += ["--model_args", f"pretrained={checkpoint},dtype=float32", "--include_path", str(include)]
    command += ["--device", "cpu", "--batch_size", "4", "--limit", str(limit), "--output_path", str(output)]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(output / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = output.rglob("results_*.json")
    results: dict[str, Any] = json.loads(path.read_text())["results"]
    return results


def ours(checkpoint: Path, section: dict[str, Any], output: Path) -> Results:
    return evaluate([("a", checkpoint)], parse_strict(Suite, {"tasks": section}), output)


def assert_same(stock: dict[str, Any], mine: Results, names: dict[str, str]) -> None:
    """Every number of ours is the stock command's; ``names`` maps our task's to the stock one."""
    compared = 0
    for row in mine.rows:
        task, metric = row.key.split("/")
        name, _, filter_name = metric.partition(",")
        cell = row.cells["a"]
        theirs = stock[names[task]]
        scale = 100 if row.unit == "%" else 1
        assert cell.value == pytest.approx(scale * theirs[f"{name},{filter_name or 'none'}"], rel=1e-5), (
            row.key
        )
        if name != "perplexity":
            assert cell.stderr == pytest.approx(scale * theirs[f"{name}_stderr,{filter_name or 'none'}"])
        compared += 1
    assert compared >= len(names)


@pytest.mark.thorough
@pytest.mark.slow
def test_the_stock_command_gives_the_same(tmp_path: Path) -> None:
    for name, rows in ROWS.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_stock(tmp_path, tmp_path)
    names = {name: f"stock_{name}" for name in STOCK} | {name: name for name in OWN}
    chosen = [*OWN, *(str(path) for path in tmp_path.glob("*.yaml"))]
    stock = lm_eval(TINY, ROOT / "eval" / "tasks", chosen, tmp_path / "stock", limit=12)
    section = {"names": list(names), "limit": 12, "data_dir": str(tmp_path)}
    assert_same(stock, ours(TINY, section, tmp_path / "ours"), names)


@pytest.mark.thorough
def test_the_stock_command_gives_the_same_on_real_data(tmp_path: Path) -> None:
    checkpoint = SHARED / "checkpoints" / "stories260K"
    if not checkpoint.is_dir() or not (SHARED / "tasks").is_dir():
        pytest.skip("needs ../shared/data/checkpoints/stories260K and ../shared/data/tasks")
    (tmp_path / "include").mkdir()
    write_stock(tmp_path / "include", SHARED / "tasks")
    names = {name: f"stock_{name}" for name in STOCK}
    limit = 20
    stock = lm_eval(checkpoint, tmp_path / "include", list(names.values()), tmp_path / "stock", limit)
    section = {"names": list(names), "limit": limit, "data_dir": str(SHARED / "tasks")}
    assert_same(stock, ours(checkpoint, section, tmp_path / "ours"), names)
