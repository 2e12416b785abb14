"""The tiny recipes really run, a few steps each; the large ones are checked without their sources."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralForCausalLM

import patches
from eval.results import Results
from recipes.checking import check_recipe
from recipes.errors import RecipeError
from recipes.loading import SHIPPED, load_recipe
from recipes.pipeline import run_recipe

SHORT = ["uptrain.steps=4", "uptrain.length=128", "uptrain.data.tokens=128", "uptrain.warmup_steps=1"]


def run(folder: Path, file: Path, *changes: str) -> Results:
    recipe = load_recipe(file, [*SHORT, *changes])
    return run_recipe(recipe, folder, False, Console(quiet=True), "command")


def value(results: Results, key: str, name: str) -> float:
    cell = results.cell(key, name)
    assert cell is not None and cell.value is not None
    return cell.value


def test_a_window_without_sinks_stays_native_through_the_training(tmp_path):
    changes = [
        "convert.calibrate_tokens=1024",
        "convert.calibrate_batch=2",
        "convert.reconstruct=0",
        "placement.length=160",
    ]
    changes += ["placement.rows=2", "placement.probes=[needle]", "eval.perplexity.contexts=2"]
    changes += ["eval.needle.samples=1", "eval.needle.controls=1"]
    results = run(tmp_path, SHIPPED / "tiny" / "native.yaml", *changes)
    for name in ("converted", "uptrained"):
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["model_type"] == "ministral" and config["sliding_window"] == 64
        assert config["layer_types"] == ["sliding_attention"] * 3 + ["full_attention"]
        assert "attention_window" not in config and "auto_map" not in config
        assert not list((tmp_path / name).glob("*.py"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "uptrained")
    assert type(loaded).__module__.startswith("transformers.models.ministral")
    bytes_of = {name: value(results, "kv_bytes@256", name) for name in ("source", "uptrained")}
    assert bytes_of["uptrained"] < bytes_of["source"] / 4


@pytest.mark.thorough
def test_one_kv_head_is_an_eighth_of_the_cache_and_learns(tmp_path):
    changes = [
        "convert.calibrate_tokens=1024",
        "convert.calibrate_batch=2",
        "eval.perplexity.contexts=2",
        "eval.agreement.contexts=2",
    ]
    changes += ["eval.needle.samples=1", "eval.needle.controls=1"]
    results = run(tmp_path, SHIPPED / "tiny" / "mqa.yaml", *changes)
    config = json.loads((tmp_path / "uptrained" / "config.json").read_text())
    assert config["model_type"] == "llama" and config["num_key_value_heads"] == 1
    assert config["uptraining"]["steps"] == 4
    assert value(results, "kv_bytes@256", "uptrained") == value(results, "kv_bytes@256", "source") / 8
    assert value(results, "kl", "converted") < value(results, "kl", "mean") / 2


@pytest.mark.thorough
def test_a_stream_reads_on_where_its_source_cannot(tmp_path):
    changes = ["eval.perplexity.contexts=2", "eval.perplexity.length=128", "eval.perplexity.past=64"]
    changes += ["eval.consistency.length=128", "eval.consistency.decode_tokens=8"]
    run(tmp_path, SHIPPED / "tiny" / "streaming.yaml", *changes)
    model, _ = patches.load(tmp_path / "uptrained", dtype=torch.float32)
    assert model.config.window_policy.turns
    # More positions than the source has, in pieces, through a cache that does not grow.
    ids = torch.randint(3, 1200, (1, 2112), generator=torch.Generator().manual_seed(0))
    cache = patches.WindowedCache(model.config)
    sizes = set()
    with torch.inference_mode():
        for piece in ids.split(704, dim=1):
            logits = model(piece, past_key_values=cache, logits_to_keep=1).logits
            sizes.add(cache.nbytes)
    assert len(sizes) == 1 and bool(torch.isfinite(logits).all())


def test_a_mistral_keeps_its_own_window_and_trains_without_sinks(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "tiny" / "checkpoint")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(
        **shape,
        num_key_value_heads=4,
        sliding_window=None,
        max_position_embeddings=256,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    MistralForCausalLM(config).save_pretrained(tmp_path / "mistral")
    tokenizer.save_pretrained(tmp_path / "mistral")
    text = (SHIPPED / "window_native.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(text)
    changes = ["source=mistral", "convert.window=32", "ablations.with-sinks.window=32"]
    changes += ["uptrain.data={kind: tiny, documents: 40, tokens: 96, needle_share: 0.0}", "uptrain.steps=5"]
    changes += ["uptrain.length=96", "uptrain.accumulate=1", "uptrain.bf16=false", "uptrain.warmup_steps=0"]
    changes += ["uptrain.learning_rate=0.01", "eval={footprint: {lengths: [64]}}"]
    recipe = load_recipe(tmp_path / "recipe.yaml", changes)
    assert any("native-window" in line for line in check_recipe(recipe))
    results = run_recipe(recipe, tmp_path / "run", False, Console(quiet=True), "command")
    uptrained = AutoConfig.from_pretrained(tmp_path / "run" / "uptrained")
    assert uptrained.model_type == "mistral" and uptrained.sliding_window == 32
    assert value(results, "kv_bytes@64", "uptrained") < value(results, "kv_bytes@64", "source")
    before, after = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "run" / name, dtype=torch.float32)
        for name in ("converted", "uptrained")
    )
    assert type(after).__module__.startswith("transformers.models.mistral")
    ids = torch.arange(3, 90)[None]
    with torch.no_grad():
        assert (before(ids).logits - after(ids).logits).abs().max() > 1e-4
        # The last token sees 32 tokens per layer, so two layers end before the first one.
        changed = torch.cat([torch.tensor([[500]]), ids[:, 1:]], dim=1)
        assert torch.equal(after(ids).logits[:, -1], after(changed).logits[:, -1])


@pytest.mark.parametrize(
    "name,change,said",
    [
        ("chat_gqa8", "convert.merge=subspac", "converted: merge='subspac' is not known"),
        ("chat_gqa8", "uptrain.kl_top_k=5", ""),
        (
            "paper_gqa_uptrain5pct",
            "uptrain.temperature=2.0",
            "temperature has no effect while kl_weight is 0",
        ),
        ("documents_gqa8_window4k", "convert.cache=int9", "int9"),
        ("documents_gqa8_window4k", "convert.global_layers=every:4", "placement: nothing is measured"),
        ("streaming_chat", "convert.refit=true", "refit needs a calibration text"),
        ("streaming_chat", "convert.dtype=float12", "float12"),
    ],
)
def test_check_needs_no_source_to_find_a_key_that_is_wrong_or_idle(name, change, said):
    recipe = load_recipe(SHIPPED / f"{name}.yaml", [change])
    if not said:
        assert check_recipe(recipe)
        return
    with pytest.raises(RecipeError, match=said):
        check_recipe(recipe)


def test_every_recipe_begins_with_the_command_that_runs_it():
    for path in SHIPPED.rglob("*.yaml"):
        text = path.read_text()
        if "\nconvert:" not in text:
            continue
        name = str(path.relative_to(SHIPPED.parent))
        header = text[: text.index("\nname:")]
        assert f"python -m recipes run {name}" in header, name
        assert all(line.startswith("#") for line in header.splitlines()), name
