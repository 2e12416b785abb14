"""The demo's recipe at a fraction of its steps, through the command line; and going on after a stop."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import patches
from convert import Request, convert
from eval.progress import Reporter
from recipes.errors import Interrupted, RecipeError
from recipes.loading import SHIPPED
from recipes.schema import UptrainPart
from recipes.uptrain.checkpoints import SAVED, newest_checkpoint
from recipes.uptrain.merging import save_merged
from recipes.uptrain.training import train

DEMO, CHECKPOINT = SHIPPED / "tiny" / "demo.yaml", SHIPPED / "tiny" / "checkpoint"
REDUCED = [
    "uptrain.steps=6",
    "uptrain.warmup_steps=5",
    "uptrain.length=128",
    "uptrain.data.tokens=128",
    "uptrain.log_every=2",
    "uptrain.save_every=4",
    "eval.perplexity.contexts=2",
    "eval.agreement.contexts=2",
    "eval.needle.samples=2",
    "eval.needle.controls=2",
    "eval.needle.lengths=[256]",
    "eval.tasks.limit=2",
    "eval.speed.repeats=2",
]


def run_demo(folder: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    changes = [word for change in REDUCED for word in ("--set", change)]
    command = [sys.executable, "-m", "recipes", "run", str(DEMO), "--output", str(folder), *changes, *extra]
    return subprocess.run(command, cwd=SHIPPED.parent, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    run = run_demo(folder)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.rstrip().endswith(f"report: {folder / 'report.html'}")
    for column in ("source", "converted", "uptrained", "plain-window"):
        assert column in run.stdout
    return folder


def test_the_report_has_every_column_and_the_window_shows(finished):
    results = json.loads((finished / "results.json").read_text())
    names = [checkpoint["name"] for checkpoint in results["checkpoints"]]
    assert names == ["source", "converted", "uptrained", "plain-window"]
    cells = {row["key"]: row["cells"] for row in results["rows"]}
    assert cells["needle"]["source"]["value"] >= 90
    assert cells["needle_beyond"]["plain-window"]["value"] <= 25
    assert cells["kv_bytes@512"]["uptrained"]["value"] <= cells["kv_bytes@512"]["source"]["value"] / 3
    for key in ("kv_bytes@256", "kv_bytes@512"):
        for name in names:
            assert cells[key][name]["value"] == cells[key.replace("bytes", "predicted")][name]["value"]
    assert (finished / "report.md").is_file() and (finished / "report.html").stat().st_size > 50_000


def test_the_uptrained_checkpoint_is_of_the_converted_tier_and_learned(finished):
    converted, uptrained = (
        json.loads((finished / name / "config.json").read_text()) for name in ("converted", "uptrained")
    )
    history = uptrained.pop("uptraining")
    assert uptrained == converted
    # Rows have some padding, which is not counted.
    assert history["steps"] == 6 and 0.5 < history["tokens"] / (6 * 4 * 128) <= 1
    assert history["attention_last"] < history["attention_first"]
    before, after = (load_file(finished / name / "model.safetensors") for name in ("converted", "uptrained"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name and "self_attn" in name}
    assert all(after[name].dtype == before[name].dtype for name in before)
    model, tokenizer = patches.load(finished / "uptrained")
    text = model.generate(**tokenizer("one day", return_tensors="pt"), max_new_tokens=90)
    assert model.config.window_policy.size == 64 and text.shape[1] > 80


@pytest.mark.thorough
def test_the_uptrained_checkpoint_loads_where_headroom_is_not(finished, tmp_path):
    code = (
        "import sys, torch\nfrom transformers import AutoModelForCausalLM\n"
        "options = {'trust_remote_code': True, 'dtype': torch.float32}\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], **options)\n"
        "assert 'patches' not in sys.modules and type(model).__name__ == 'WindowedLlamaForCausalLM'\n"
        "print(model(torch.arange(3, 203)[None]).logits.double().sum().item())"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": ""}
    # An editable install offers `patches` everywhere; without its finder and paths the folder must do alone.
    block = (
        "import sys\nsys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f)]\n"
        "import importlib.util\nassert importlib.util.find_spec('patches') is None\n"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", block + code, str(finished / "uptrained")],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    model = AutoModelForCausalLM.from_pretrained(finished / "uptrained", dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.arange(3, 203)[None]).logits.double().sum().item()
    assert float(run.stdout) == pytest.approx(expected, rel=1e-4)


@pytest.mark.thorough
def test_resume_does_nothing_twice(finished):
    stamp = (finished / "uptrained" / "model.safetensors").stat().st_mtime_ns
    run = run_demo(finished, "--resume")
    assert run.returncode == 0, run.stderr
    for stage in ("convert-converted", "convert-plain-window", "uptrain"):
        assert f"{stage}: unchanged, skipped" in run.stdout
    assert "uptrained: needle: measured before" in run.stdout
    assert (finished / "uptrained" / "model.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.thorough
def test_resume_with_another_learning_rate_trains_anew(finished, tmp_path):
    folder = tmp_path / "demo"
    shutil.copytree(finished, folder)
    run = run_demo(folder, "--resume", "--set", "uptrain.learning_rate=1.0e-6")
    assert run.returncode == 0, run.stderr
    assert "uptrain: begun anew" in run.stdout and "resumed after" not in run.stdout
    before, after = (load_file(path / "uptrained" / "model.safetensors") for path in (finished, folder))
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("which", [0, -1], ids=["whole", "sharded"])
def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path, which):
    for step in (4, 10):
        for names in SAVED:
            file = tmp_path / f"checkpoint-{step}" / names[which].replace("*", "")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    (tmp_path / "checkpoint-10" / "optimizer").unlink()
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "gqa"
    convert(Request(str(CHECKPOINT), folder, kv_heads=2, window=16, sinks=2, global_layers="2"))
    return folder


def part(**changes) -> UptrainPart:
    data = {"kind": "tiny", "documents": 40, "tokens": 64, "needle_share": 0.0, "seed": 9}
    return UptrainPart.model_validate(
        {
            "data": data,
            "steps": 6,
            "length": 64,
            "batch_size": 2,
            "accumulate": 2,
            "log_every": 1,
            "save_every": 2,
        }
        | {"attention_weight": 1.0, "warmup_steps": 2, "learning_rate": 1e-3}
        | changes
    )


class StopAfter(Reporter):
    """Presses Ctrl-C when a step is reported."""

    def __init__(self, step: int):
        super().__init__(Console(quiet=True))
        self.prefix = f"uptrain: step {step}/"

    def line(self, text: str) -> None:
        if text.startswith(self.prefix):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    "documents",
    [
        pytest.param(40, id="within-the-text", marks=pytest.mark.thorough),
        pytest.param(10, id="after-its-end"),
    ],
)
def test_a_stopped_training_goes_on_to_the_same_weights(student, tmp_path, documents):
    silent = Reporter(None)
    data = {"kind": "tiny", "documents": documents, "tokens": 64, "needle_share": 0.0, "seed": 9}
    whole, _ = train(part(data=data), CHECKPOINT, student, tmp_path / "whole", False, silent)
    with pytest.raises(Interrupted, match=r"after step [345] of 6"):
        train(part(data=data), CHECKPOINT, student, tmp_path / "stopped", False, StopAfter(4))
    resumed, history = train(part(data=data), CHECKPOINT, student, tmp_path / "stopped", True, silent)
    assert history["steps"] == 6
    for (name, one), (_, other) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_a_projection_trained_in_full_and_lora_merge_to_what_was_trained(student, tmp_path):
    lora = {"rank": 4, "alpha": 8, "targets": ["q_proj", "o_proj"], "full": ["k_proj", "v_proj"]}
    model, history = train(part(lora=lora), CHECKPOINT, student, tmp_path / "log", False, Reporter(None))
    tokens = torch.arange(3, 60)[None]
    with torch.no_grad():
        wanted = model.eval()(tokens).logits
    save_merged(model, student, tmp_path / "merged", history)
    got = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)(tokens).logits
    # The checkpoint is bfloat16; the trained model was float32.
    assert (got - wanted).norm() / wanted.norm() < 0.02
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("a b").input_ids[0] == 1


def test_gradient_checkpointing_trains_the_same(student, tmp_path):
    models = [
        train(
            part(gradient_checkpointing=on, steps=2),
            CHECKPOINT,
            student,
            tmp_path / str(on),
            False,
            Reporter(None),
        )[0]
        for on in (False, True)
    ]
    for (name, one), (_, other) in zip(*(model.named_parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, msg=name, atol=1e-4, rtol=1e-3)


def test_training_text_that_is_empty_is_refused(student, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    data = {"kind": "file", "file": str(tmp_path / "empty.txt")}
    with pytest.raises(RecipeError, match="holds no text"):
        train(part(data=data), CHECKPOINT, student, tmp_path / "log", False, Reporter(None))
