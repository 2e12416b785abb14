"""Several processes of ``accelerate launch`` measure as one does."""

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
