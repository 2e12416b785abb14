"""Tasks by other roads: the stock ``lm_eval`` command, and several processes of ``accelerate launch``."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from eval.errors import EvalError
from eval.parallel import Peers, join_peers, parting
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


@pytest.mark.slow
def test_two_processes_score_as_one_and_one_writes(tmp_path: Path) -> None:
    data = {
        "name": "two",
        "perplexity": {"length": 64, "contexts": 2},
        "tasks": {"names": OWN, "limit": 7},
    }
    (tmp_path / "two.yaml").write_text(json.dumps(data))
    suite = parse_strict(Suite, data)
    arguments = [f"a={TINY}", "--suite", str(tmp_path / "two.yaml"), "--device", "cpu"]
    done = launch([*arguments, "--output", str(tmp_path / "two")])
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.splitlines()
    assert len([line for line in said if line.startswith("report: ")]) == 1
    assert len([line for line in said if re.fullmatch(r"a: (perplexity|tasks): [\d.]+ s", line)]) == 2
    together = Results.model_validate_json((tmp_path / "two" / "results.json").read_text())
    assert together.details["tasks"]["a"]["processes"] == 2

    alone = evaluate([("a", TINY)], suite, tmp_path / "one", device="cpu")
    assert alone.details["tasks"]["a"]["processes"] == 1
    assert [row.key for row in together.rows] == [row.key for row in alone.rows]
    for mine, theirs in zip(together.rows, alone.rows, strict=True):
        assert mine.cells["a"].n == theirs.cells["a"].n
        assert mine.cells["a"].value == pytest.approx(theirs.cells["a"].value, rel=1e-6), mine.key
        assert mine.cells["a"].stderr == pytest.approx(theirs.cells["a"].stderr, rel=1e-6), mine.key
    samples = [read_samples(tmp_path / folder / "samples" / "a" / "tasks.jsonl") for folder in ("one", "two")]
    assert samples[0] == samples[1] and len(samples[0]) == 14

    again = evaluate([("a", TINY)], suite, tmp_path / "two", device="cpu")
    assert again.details["tasks"]["a"]["processes"] == 2, "measured again instead of read back"


def launch(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """``accelerate launch -m eval`` with two processes on the CPU."""
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    command = [accelerate, "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, "-m", "eval", *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Samples in one order, with log-likelihoods rounded: batches differ between processes."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["answer"] = [
            part if isinstance(part, str) else [round(part[0], 3), part[1]] for part in row["answer"]
        ]
    return sorted(rows, key=lambda row: (row["task"], row["id"]))


def test_peers_agree_also_about_errors(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()
    children = [context.Process(target=meet, args=(rank, tmp_path, answers)) for rank in range(2)]
    for child in children:
        child.start()
    found = dict(answers.get(timeout=60) for _ in children)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert found[0] == found[1] == ["made by 0", "stopped: 0", [0, 1]]


def meet(rank: int, folder: Path, answers: Any) -> None:
    """One of two processes: what it has from the main one, the error that it shares, and everybody's rank."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    peers = Peers(rank, 2)
    said: list[Any] = [peers.from_main(lambda: f"made by {rank}")]

    def fail() -> None:
        raise EvalError(f"stopped: {rank}")

    try:
        peers.from_main(fail)
    except EvalError as error:
        said.append(str(error))
    answers.put((rank, [*said, peers.gather(rank)]))
    dist.barrier()
    dist.destroy_process_group()


def test_several_processes_share_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert join_peers("cuda:1").size == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(EvalError, match="device 'cuda:1': several processes take auto, cuda or cpu"):
        join_peers("cuda:1")


def test_a_program_parts_from_its_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with parting():
        pass
    assert not dist.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit), parting():
        dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
        raise SystemExit(0)
    assert not dist.is_initialized()
