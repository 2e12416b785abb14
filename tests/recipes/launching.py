"""A tiny source and recipes on it, run in this process or in two by ``accelerate launch``."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.loading import SHIPPED, load_recipe
from recipes.pipeline import run_recipe

TOKENIZER = SHIPPED / "tiny" / "checkpoint"


def write_source(folder: Path) -> Path:
    """A random Llama of two layers and width 32, in float32, with the tiny checkpoint's tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1280,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)
    return folder


def write_recipe(folder: Path, source: Path, **changes: Any) -> Path:
    """Four steps of four rows; ``changes`` go into ``uptrain``."""
    recipe = {
        "name": "launched",
        "source": str(source),
        "convert": {"kv_heads": 2, "window": 16, "sinks": 2, "global_layers": "1"},
        "uptrain": {
            "data": {"kind": "tiny", "documents": 60, "tokens": 64, "needle_share": 0.0, "seed": 9},
            "steps": 4,
            "length": 48,
            "batch_size": 1,
            "accumulate": 4,
            "learning_rate": 1e-2,
            "warmup_steps": 1,
            "attention_weight": 1.0,
            "ce_weight": 0.1,
            "lora": {"rank": 4, "alpha": 8, "targets": ["q_proj", "o_proj"], "full": ["k_proj", "v_proj"]},
            "heldout": {"rows": 2, "every": 2, "keep_best": True},
            "log_every": 2,
            "save_every": 2,
        }
        | changes,
        "eval": {
            "name": "short",
            "text": str(SHIPPED / "tiny" / "heldout.txt"),
            "perplexity": {"length": 64, "contexts": 2},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(recipe))
    return file


def run_alone(file: Path, output: Path) -> Path:
    """Run a recipe in this process."""
    run_recipe(load_recipe(file), output, False, Console(quiet=True), "test")
    return output


def launch(file: Path, output: Path, *options: str, resume: bool = False) -> subprocess.CompletedProcess[str]:
    """``accelerate launch -m recipes run`` with two processes on the CPU.

    Args:
        file: The recipe.
        output: Of the run.
        options: Of ``accelerate launch``, before those of its configuration.
        resume: Whether to go on with a run.
    """
    config = SHIPPED / "accelerate" / "two_processes_cpu.yaml"
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", "--config_file", str(config)]
    command += [*options, "--main_process_port", "0"]
    command += ["-m", "recipes", "run", str(file), "--output", str(output)]
    command += ["--resume"] * resume
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SHIPPED.parent)}
    return subprocess.run(
        command,
        env=environment,
        cwd=SHIPPED.parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def weights_of(run: Path, column: str = "uptrained") -> dict[str, torch.Tensor]:
    """The weights of a run's checkpoint."""
    return load_file(run / column / "model.safetensors")


def losses_of(run: Path) -> list[tuple[float, float, float]]:
    """KL, cross-entropy and attention distance of every entry of a run's log."""
    return [(entry["kl"], entry["ce"], entry["attention"]) for entry in _logged(run) if "kl" in entry]


def heldout_of(run: Path) -> dict[int, float]:
    """KL on the rows set aside, by step."""
    return {entry["step"]: entry["heldout_kl"] for entry in _logged(run) if "heldout_kl" in entry}


def _logged(run: Path) -> list[dict[str, Any]]:
    history: list[dict[str, Any]] = json.loads((run / "training" / "log.json").read_text())["log_history"]
    return history
