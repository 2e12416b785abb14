"""What must hold for every family and its variants: tensors, defaults, results."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer

from convert import Request, convert
from convert.attention import read_shape
from convert.families import FAMILIES
from convert.merging import METHODS
from tests.convert.sources import MERGED, Source, duplicate_heads, repeat_heads
from tests.convert.tiny import CASES, OWN_SIZES, VARIANTS

TOKENS = torch.arange(24).reshape(2, 12) % 64

cases = pytest.mark.parametrize("case", CASES)
families = pytest.mark.parametrize(
    "case", [*OWN_SIZES, *(pytest.param(variant, marks=pytest.mark.thorough) for variant in VARIANTS)]
)
"""The same, with the variants of families left to the thorough run."""


def logits(folder: Path, **options: Any) -> Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, **options).eval()(TOKENS).logits


def test_every_family_is_tried() -> None:
    assert OWN_SIZES.keys() == FAMILIES.keys()


@cases
def test_every_layer_splits_and_joins(source: Source) -> None:
    layers, tensors = range(source.shape.layers), source.tensors
    assert source.family.tensor(source.shape.layers, "x").rsplit(".", 1)[0] not in " ".join(tensors)
    for layer in layers:
        joined = source.join(layer, source.split(layer))
        prefix = source.family.tensor(layer, "")
        assert {name for name in tensors if name.startswith(prefix)} >= joined.keys()
        assert all(torch.equal(tensors[name], tensor) for name, tensor in joined.items())


@cases
def test_source_head_count_is_bit_identical(source: Source, tmp_path: Path) -> None:
    convert(Request(str(source.folder), tmp_path / "out", kv_heads=source.shape.kv_heads))
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert after.keys() == source.tensors.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in source.tensors.items())


@cases
def test_a_result_has_fewer_heads_and_else_what_the_source_has(source: Source, tmp_path: Path) -> None:
    for count in source.fewer():
        out = tmp_path / str(count)
        result = convert(Request(str(source.folder), out, kv_heads=count))
        if result.model_type != "gpt_bigcode":
            assert_only_heads_changed(source, count, out)
        if result.tier == "windowed":
            continue
        model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        with torch.no_grad():
            output = model.eval()(TOKENS, use_cache=True)
        assert not any(info.values()), info
        assert model.config.model_type == result.model_type
        assert bool(output.logits.isfinite().all())
        # transformers repeats the keys of Falcon's new decoder before it caches them.
        expanded = source.config.get("new_decoder_architecture")
        assert output.past_key_values.layers[0].keys.shape[1] == (source.shape.heads if expanded else count)


def assert_only_heads_changed(source: Source, count: int, out: Path) -> None:
    after, config = load_file(out / "model.safetensors"), json.loads((out / "config.json").read_text())
    assert after.keys() == source.tensors.keys()
    for layer in range(source.shape.layers):
        suffixes = source.family.layout.roles(config)
        named = {suffix: after.pop(source.family.tensor(layer, suffix)) for suffix in suffixes}
        heads = source.family.split_layer(named, source.shape.layer(count), config).parts()
        for role, part in source.split(layer).parts().items():
            assert heads[role].shape[0] == (count if role in MERGED else part.shape[0])
            assert role in MERGED or torch.equal(heads[role], part)
    assert all(torch.equal(source.tensors[name], tensor) for name, tensor in after.items())


@families
@pytest.mark.parametrize(
    "methods",
    [
        pytest.param(("mean", "subspace"), id="main"),
        pytest.param(
            METHODS.keys() - {"mean", "subspace", "random"}, id="others", marks=pytest.mark.thorough
        ),
    ],
)
def test_duplicated_heads_convert_without_loss_by_every_method(
    source: Source, methods: Collection[str], tmp_path: Path
) -> None:
    fixed = source.family.fixed(source.config) is not None
    for count in source.fewer():
        folder = tmp_path / f"{count}-source"
        duplicate_heads(source, count, folder)
        before = logits(folder)
        for method in (METHODS[name] for name in sorted(methods)):
            if fixed and method.pool is None:
                continue
            out = tmp_path / f"{count}-{method.name}"
            result = convert(Request(str(folder), out, kv_heads=count, merge=method.name))
            if result.tier == "windowed":
                repeat_heads(source, count, out)
            torch.testing.assert_close(logits(out), before, rtol=1e-4, atol=1e-4)


@families
def test_sharded_and_single_give_the_same(source: Source, read_tensors, tmp_path: Path) -> None:
    sharded, heads = tmp_path / "source", source.shape.kv_heads
    convert(Request(str(source.folder), sharded, kv_heads=heads, max_shard_size="40KB"))
    assert len(list(sharded.glob("*.safetensors"))) > 1
    for name, folder in (("single", source.folder), ("sharded", sharded)):
        convert(Request(str(folder), tmp_path / name, kv_heads=heads // 2, merge="random", seed=5))
    first, second = read_tensors(tmp_path / "single"), read_tensors(tmp_path / "sharded")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tokenizer_and_generation_config_go_along(make_checkpoint, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    convert(Request(str(source), tmp_path / "out", kv_heads=2))
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (source, tmp_path / "out"))
    assert after("w5 w9 w3").input_ids == before("w5 w9 w3").input_ids
    assert type(after) is type(before)
    assert after.chat_template == before.chat_template is not None
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes(), name


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() & set(CONFIG_MAPPING)))
def test_defaults_are_those_of_transformers(family: str) -> None:
    record, theirs = FAMILIES[family], AutoConfig.for_model(family)
    ours = read_shape(record, {"model_type": family})
    head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    kv_heads = getattr(theirs, "num_key_value_heads", None) or theirs.num_attention_heads
    kinds = getattr(theirs, "layer_types", None) or ["sliding_attention"] * theirs.num_hidden_layers
    size = getattr(theirs, "sliding_window", None) or None
    expected = (theirs.num_hidden_layers, theirs.num_attention_heads, theirs.hidden_size, head_dim)
    assert (ours.layers, ours.heads, ours.hidden_size, ours.head_dim) == expected
    assert ours.kv_heads == (1 if family == "falcon" else kv_heads)
    assert ours.windows == tuple(size if kind == "sliding_attention" else None for kind in kinds)
    spread = record.value({}, "initializer_range") or 0.02
    assert spread == getattr(theirs, "init_std", getattr(theirs, "initializer_range", 0.02))
