"""Recipes are read strictly, those shipped are valid, and mistakes get one line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from recipes import stages
from recipes.checking import check_recipe
from recipes.errors import RecipeError
from recipes.loading import SHIPPED, load_recipe, shipped_recipes
from recipes.pipeline import run_recipe
from recipes.stages import Stages, fingerprint

DEMO = SHIPPED / "tiny" / "demo.yaml"


@pytest.mark.parametrize("path", shipped_recipes(), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(path):
    recipe = load_recipe(path)
    assert recipe.description
    assert check_recipe(recipe)


def write(tmp_path: Path, **changes) -> Path:
    data = yaml.safe_load(DEMO.read_text()) | {"source": str(SHIPPED / "tiny" / "checkpoint")}
    data["eval"]["text"] = str(SHIPPED / "tiny" / "heldout.txt")
    for place, value in changes.items():
        inner = data
        *path, last = place.split("__")
        for key in path:
            inner = inner[key]
        inner[last] = value
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@pytest.mark.parametrize(
    "changes,said",
    [
        ({"uptrian": {}}, "did you mean 'uptrain'"),
        ({"convert__kv_head": 2}, "did you mean 'kv_heads'"),
        ({"uptrain__steps": 0}, "uptrain.steps: got 0"),
        (
            {"uptrain__kl_weight": 0, "uptrain__ce_weight": 0, "uptrain__attention_weight": 0},
            "nothing to learn from",
        ),
        ({"uptrain__data": {"kind": "web"}}, "uptrain.data"),
        ({"uptrain__lora__full": ["q_proj"], "uptrain__lora__targets": ["q_proj"]}, "both a target of LoRA"),
        ({"uptrain__lora__layers": []}, "uptrain.lora.layers"),
        ({"uptrain__attention_layers": []}, "uptrain.attention_layers"),
        ({"uptrain__attention_layers": {}}, "uptrain.attention_layers"),
        ({"ablations": {"source": {"kv_heads": 2}}}, "cannot be called 'source'"),
        ({"ablations": {"training": {"kv_heads": 2}}}, "cannot be called 'training'"),
        ({"name": "a/b"}, "name: got 'a/b'"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path, changes, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, **changes))
    assert said in str(caught.value) and "\n" not in str(caught.value)


UNREADY = [
    ({"eval__text": "nowhere.txt"}, "nowhere.txt"),
    (
        {"uptrain__data": {"kind": "file", "file": "nowhere.txt"}},
        "uptrain: text .*nowhere.txt does not exist",
    ),
    ({"uptrain__lora__layers": [1, 99]}, "uptrain.lora.layers: layer 99 does not exist; .* layers 0 to 3"),
    ({"uptrain__attention_layers": {4: 1.0}}, "uptrain.attention_layers: layer 4 does not exist"),
    (
        {"convert__global_layers": "auto:4", "convert__window": 64},
        "converted: global_layers=auto:4 must keep 1 to 3 of the source's 4 layers",
    ),
    (
        {"uptrain__kl_weight": 0, "uptrain__attention_weight": 0, "uptrain__teacher": {"kind": "shared"}},
        "teacher has no effect while kl_weight and attention_weight are 0",
    ),
    ({"uptrain__steps": 10}, "warmup_steps=10 must be below steps=10"),
    (
        {"uptrain__data": {"kind": "file", "file": str(SHIPPED / "tiny" / "heldout.txt"), "column": "words"}},
        "data.column='words' has no effect on .*heldout.txt; only .jsonl and .parquet have columns",
    ),
    ({"uptrain__data": [{"kind": "tiny", "weight": 2.0}]}, "data.weight has no effect on a single source"),
    (
        {"uptrain__length": [{"length": 64, "steps": 20, "batch_size": 2}], "uptrain__steps": 20},
        "batch_size has no effect, because every stage has its own",
    ),
    (
        {"convert": {"kv_heads": 2}, "uptrain__lora__sink_logits": True},
        "lora.sink_logits are for windowed layers, and convert has no window",
    ),
]


@pytest.mark.parametrize(
    "changes,said",
    [
        ({"convert__kv_heads": 3}, "converted: kv_heads=3 must divide"),
        ({"convert__sinks": 64}, "converted: sinks=64"),
        ({"ablations": {"plain": {"kv_heads": 4, "merge": "men"}}}, "plain: merge='men' is not known"),
        *UNREADY,
    ],
)
def test_check_finds_what_cannot_work(tmp_path, changes, said):
    with pytest.raises(RecipeError, match=said):
        check_recipe(load_recipe(write(tmp_path, **changes)))


@pytest.mark.parametrize("changes,said", UNREADY)
def test_a_run_finds_before_it_begins_what_a_check_finds(tmp_path, changes, said):
    recipe = load_recipe(write(tmp_path, **changes))
    with pytest.raises(RecipeError, match=said):
        run_recipe(recipe, tmp_path / "run", False, Console(quiet=True), "command")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes,said",
    [
        ({"uptrain__optimizer": "adamw_8bit"}, "optimizer adamw_8bit needs bitsandbytes"),
        ({"uptrain__teacher": {"kind": "saved", "quantization": "8bit"}}, "8bit needs bitsandbytes"),
        ({"uptrain__tensorboard": True}, r"pip install headroom\[tensorboard\]"),
    ],
)
def test_a_package_that_is_missing_stops_a_run_and_not_a_check(tmp_path, monkeypatch, changes, said):
    for package in ("bitsandbytes", "tensorboard"):
        monkeypatch.setitem(sys.modules, package, None)
    recipe = load_recipe(write(tmp_path, uptrain__attention_weight=0, **changes))
    assert any(re.search(f"^here: .*{said}", line) for line in check_recipe(recipe))
    with pytest.raises(RecipeError, match=said):
        run_recipe(recipe, tmp_path / "run", False, Console(quiet=True), "command")
    assert not (tmp_path / "run").exists()


def test_changes_on_the_command_line(tmp_path):
    recipe = load_recipe(
        DEMO,
        ["uptrain.steps=5", "convert.merge=first", "convert.global_layers=1", "eval.needle.depths=[0.5]"],
    )
    assert (recipe.uptrain.steps, recipe.convert.merge, recipe.eval.needle.depths) == (5, "first", [0.5])
    for change, said in (
        ("steps", "must be a.b=value"),
        ("name.x=1", "which has no keys"),
        ("uptrain.stops=1", "steps"),
    ):
        with pytest.raises(RecipeError, match=said):
            load_recipe(DEMO, [change])


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["run", "nowhere.yaml"], "error: recipe 'nowhere.yaml' does not exist; those shipped: recipes/"),
        (["run", str(DEMO), "--set", "uptrain.stops=1"], "did you mean 'steps'"),
        (["check", str(DEMO), "pyproject.toml"], "pyproject.toml"),
    ],
)
def test_the_command_line_answers_a_mistake_with_one_line_and_2(arguments, said):
    run = subprocess.run(
        [sys.executable, "-m", "recipes", *arguments], capture_output=True, text=True, cwd=SHIPPED.parent
    )
    assert run.returncode == 2
    assert said in run.stderr and len(run.stderr.strip().splitlines()) == 1


def test_a_run_is_never_mixed_with_another(tmp_path):
    (tmp_path / "keep").write_text("mine")
    command = [sys.executable, "-m", "recipes", "run", str(DEMO), "--output", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=SHIPPED.parent)
    assert run.returncode == 2 and "is not empty: add --resume" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]


def test_a_stage_is_skipped_only_while_its_inputs_and_its_result_are_unchanged(tmp_path):
    made, calls, lines = tmp_path / "made", [], []

    def work():
        calls.append(1)
        made.write_text("result")

    def do(inputs, resume=True):
        Stages(tmp_path, resume, lines.append).do("stage", inputs, made, work)

    do({"a": 1})
    do({"a": 1})
    assert len(calls) == 1 and lines == ["stage: unchanged, skipped"]
    do({"a": 2})
    made.write_text("tampered with")
    do({"a": 2})
    made.unlink()
    do({"a": 2})
    (tmp_path / "stages" / "stage.json").write_text("{cut off")
    do({"a": 2})
    do({"a": 2}, resume=False)
    assert len(calls) == 6


def test_a_fingerprint_sees_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    before = fingerprint(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert fingerprint(tmp_path) != before
    assert fingerprint(tmp_path / "gone") is None


def test_a_large_file_counts_by_samples_and_not_by_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "WHOLE", 2**16)
    path = tmp_path / "weights"
    content = bytearray(range(256)) * 2**15
    path.write_bytes(content)
    before = fingerprint(tmp_path)
    os.utime(path, (1, 1))
    assert fingerprint(tmp_path) == before
    # Samples begin every 8 KiB: the first and the last byte count, and whatever is as long as that.
    middle = len(content) // 2
    for begin, end in ((0, 1), (len(content) - 1, len(content)), (middle, middle + 8192)):
        changed = content.copy()
        changed[begin:end] = bytes(255 - byte for byte in changed[begin:end])
        path.write_bytes(changed)
        assert fingerprint(tmp_path) != before
    path.write_bytes(content[:-1])
    assert fingerprint(tmp_path) != before
    path.write_bytes(content)
    assert fingerprint(tmp_path) == before
