"""A killed training goes on to the very same bytes, through the stages of a curriculum."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from convert import Request, convert
from eval.progress import Reporter
from recipes.loading import SHIPPED
from recipes.schema import UptrainPart
from recipes.uptrain.checkpoints import newest_checkpoint
from recipes.uptrain.merging import save_merged
from recipes.uptrain.training import train

TRAIN = """
import sys
from pathlib import Path
from rich.console import Console
from eval.progress import Reporter
from recipes.schema import UptrainPart
from recipes.uptrain.training import train
part, teacher, student, output = sys.argv[1:]
reporter = Reporter(Console(file=sys.stdout, width=200))
train(UptrainPart.model_validate_json(part), Path(teacher), Path(student), Path(output), False, reporter)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    """A small source with random weights, and what it was converted to."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1280,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "source")
    AutoTokenizer.from_pretrained(SHIPPED / "tiny" / "checkpoint").save_pretrained(folder / "source")
    request = Request(
        str(folder / "source"), folder / "student", kv_heads=2, window=8, sinks=2, global_layers="1"
    )
    convert(request)
    return folder / "source", folder / "student"


@pytest.fixture(scope="module")
def part(tmp_path_factory) -> UptrainPart:
    """Two stages, two sources, dropout: everything that must be found again."""
    folder = tmp_path_factory.mktemp("text")
    words = ["tom", "lily", "ran", "saw", "the", "big", "red", "park", "dog", "bird", "and", "went", "home"]
    for name, step in (("a", 3), ("b", 5)):
        texts = [" ".join(words[(n * step + k) % len(words)] for k in range(4 + n % 23)) for n in range(30)]
        (folder / f"{name}.txt").write_text("\n\n".join(texts))
    return UptrainPart.model_validate(
        {
            "data": [
                {"kind": "file", "file": str(folder / "a.txt"), "seed": 1, "weight": 2.0},
                {"kind": "file", "file": str(folder / "b.txt")},
            ],
            "length": [{"length": 24, "steps": 5, "batch_size": 3}, {"length": 64, "steps": 5}],
            "accumulate": 2,
            "learning_rate": 1e-2,
            "warmup_steps": 2,
            "attention_weight": 1.0,
            "ce_weight": 0.5,
            "lora": {
                "rank": 4,
                "alpha": 8,
                "dropout": 0.2,
                "targets": ["q_proj", "o_proj"],
                "full": ["k_proj"],
            },
            "log_every": 1,
            "save_every": 2,
        }
    )


def merged(part, models, output, resume) -> tuple[bytes, dict]:
    model, history = train(part, *models, output, resume, Reporter(None))
    save_merged(model, models[1], output / "merged", history)
    return (output / "merged" / "model.safetensors").read_bytes(), history


@pytest.fixture(scope="module")
def whole(part, models, tmp_path_factory) -> tuple[bytes, dict]:
    return merged(part, models, tmp_path_factory.mktemp("whole"), False)


@pytest.mark.parametrize("step", [3, pytest.param(7, marks=pytest.mark.thorough)])
def test_a_killed_training_goes_on_to_the_same_bytes(part, models, whole, tmp_path, step):
    command = [sys.executable, "-c", TRAIN, part.model_dump_json(), *map(str, models), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        for line in child.stdout:
            if f"step {step}/10" in line:
                os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    found = newest_checkpoint(tmp_path)
    assert found is not None and 2 <= int(found.rpartition("-")[2]) < 10
    weights, history = merged(part, models, tmp_path, True)
    assert weights == whole[0]
    losses = [name for name in history if name.startswith(("kl", "ce", "attention"))]
    assert losses and {name: history[name] for name in losses} == {name: whole[1][name] for name in losses}
    assert history["tokens"] == whole[1]["tokens"]
    steps = [entry["step"] for entry in json.loads((tmp_path / "log.json").read_text())["log_history"]]
    assert steps[:10] == list(range(1, 11))
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as file:
        assert len(file.keys()) > 10
