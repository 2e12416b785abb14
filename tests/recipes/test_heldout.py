"""Held-out rows are never trained on; what they measure stops a training, and its best step is kept."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from convert import Request, convert
from eval.progress import Reporter
from recipes.errors import RecipeError
from recipes.loading import SHIPPED
from recipes.schema import UptrainPart
from recipes.uptrain.batches import PackedBatches
from recipes.uptrain.heldout import set_aside
from recipes.uptrain.merging import save_merged
from recipes.uptrain.mixtures import Listed
from recipes.uptrain.training import train

TOKENIZER = AutoTokenizer.from_pretrained(SHIPPED / "tiny" / "checkpoint")
SILENT = Reporter(None)


class Lines(Reporter):
    """Keeps what is said."""

    def __init__(self, lines: list[str]):
        super().__init__(Console(quiet=True))
        self.lines = lines

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1280, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    source = LlamaForCausalLM(config)
    for weight in source.parameters():
        # Of a size at which heads differ enough for a KL to win back.
        torch.nn.init.normal_(weight, std=0.3)
    source.save_pretrained(folder / "source")
    TOKENIZER.save_pretrained(folder / "source")
    convert(Request(str(folder / "source"), folder / "student", kv_heads=1))
    return folder / "source", folder / "student"


def part(**changes) -> UptrainPart:
    data = {"kind": "tiny", "documents": 60, "tokens": 64, "needle_share": 0.0, "seed": 9}
    return UptrainPart.model_validate(
        {
            "data": data,
            "steps": 8,
            "length": 64,
            "learning_rate": 5e-3,
            "warmup_steps": 0,
            "log_every": 2,
            "save_every": 100,
        }
        | changes
    )


def heldout_of(history) -> list[tuple[int, float]]:
    return [(entry["step"], entry["heldout_kl"]) for entry in history["log"] if "heldout_kl" in entry]


def test_what_is_held_out_is_in_no_row_of_any_pass():
    texts = [f"{word} went home." for word in ("tom", "lily", "max", "anna", "ben", "mia", "sam", "eva")]
    recipe = part(length=16, heldout={"rows": 2}, data={"kind": "tiny"})
    rows, left = set_aside(recipe, [Listed(texts, seed=1)], TOKENIZER)
    held_out = " ".join(TOKENIZER.batch_decode([row["input_ids"] for row in rows]))
    batches = iter(PackedBatches(recipe, left, TOKENIZER))
    seen = [" ".join(TOKENIZER.batch_decode(next(batches)["input_ids"])) for _ in range(40)]
    names = [text.split()[0] for text in texts if text.split()[0] in held_out]
    assert 2 <= len(names) < 8
    assert not any(name in text for text in seen for name in names)
    assert any(texts[-1].split()[0] in text for text in seen)


def test_a_text_that_is_too_short_to_hold_rows_out_is_refused():
    with pytest.raises(RecipeError, match=r"heldout.rows=8: the training data end before so many rows of 64"):
        set_aside(part(heldout={"rows": 8}), [Listed(["one day tom went home."] * 9)], TOKENIZER)


def test_measurements_are_in_the_log_and_leave_the_training_as_it_was(models, tmp_path):
    data = {"kind": "tiny", "documents": 60, "tokens": 64, "needle_share": 0.0, "seed": 9}
    recipe = part(heldout={"rows": 2, "every": 3}, data=data, lora={"rank": 4, "alpha": 8, "dropout": 0.2})
    one, history = train(recipe, *models, tmp_path / "a", False, SILENT)
    assert [step for step, _ in heldout_of(history)] == [0, 3, 6, 8]
    assert history["heldout_kl_first"] == heldout_of(history)[0][1] > history["heldout_kl_last"] > 0
    other, _ = train(
        recipe.model_copy(update={"heldout": recipe.heldout.model_copy(update={"every": 1})}),
        *models, tmp_path / "b", False, SILENT,
    )  # fmt: skip
    for (name, ours), (_, theirs) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_gate_stops_the_training_and_a_resumed_one_stays_stopped(models, tmp_path):
    _, history = train(part(heldout={"rows": 2, "every": 2}), *models, tmp_path / "whole", False, SILENT)
    (_, before), (step, gate), *_ = heldout_of(history)
    assert gate < before
    gated = part(heldout={"rows": 2, "every": 2, "stop_at_kl": gate})
    stopped, ended = train(gated, *models, tmp_path / "gate", False, SILENT)
    assert ended["steps"] == step == 2
    lines = []
    again, resumed = train(gated, *models, tmp_path / "gate", True, Lines(lines))
    assert lines == ["uptrain: ended after step 2, in an earlier run"]
    assert resumed["steps"] == 2 and heldout_of(resumed) == heldout_of(ended)
    for (name, ours), (_, theirs) in zip(stopped.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_patience_ends_what_gets_no_better_and_the_best_step_is_kept(models, tmp_path):
    # A rate at which the KL soon rises.
    recipe = part(
        steps=30, learning_rate=0.3, heldout={"rows": 2, "every": 1, "patience": 3, "keep_best": True}
    )
    model, history = train(recipe, *models, tmp_path / "run", False, SILENT)
    values = dict(heldout_of(history)[1:])
    best = min(values, key=values.get)
    assert history["best_step"] == best and history["steps"] == best + 3 < 30
    save_merged(model, models[1], tmp_path / "merged", history)
    kept = load_file(tmp_path / "run" / f"checkpoint-{best}" / "adapter_model.safetensors")
    trained = {name.replace(".default", ""): value for name, value in model.state_dict().items()}
    assert kept and all(torch.equal(trained.get(name, value), value) for name, value in kept.items())
    card = (tmp_path / "merged" / "README.md").read_text()
    assert f"step {best}, the best of the held-out measurements" in card and "### Held-out rows" in card


def test_a_gate_on_a_kl_that_is_not_measured_is_refused():
    with pytest.raises(ValidationError, match="stop_at_kl needs a kl_weight above 0"):
        part(kl_weight=0.0, ce_weight=1.0, heldout={"stop_at_kl": 0.1})


def test_the_card_tells_the_whole_story_and_the_config_stays_short(models, tmp_path):
    model, history = train(part(heldout={"rows": 1, "every": 4}), *models, tmp_path / "run", False, SILENT)
    command = "python -m recipes run mine.yaml"
    save_merged(model, models[1], tmp_path / "merged", history | {"command": command})
    config = json.loads((tmp_path / "merged" / "config.json").read_text())["uptraining"]
    assert "log" not in config and len(json.dumps(config)) < 4000
    assert config["command"] == command and config["recipe"]["steps"] == 8
    assert config["software"]["torch"] == version("torch")
    card = (tmp_path / "merged" / "README.md").read_text()
    converted = (models[1] / "README.md").read_text()
    assert card.startswith(converted)
    for said in ("| teacher | source |", command, f"{history['tokens']:,}", "learning_rate: 0.005"):
        assert said in card.removeprefix(converted)
    for step in (2, 4, 6, 8):
        assert f"\n| {step} | " in card
