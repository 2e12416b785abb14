"""What must hold for every family: its layout, its results, and the moves that change nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from convert import Request, convert
from convert.attention import AttentionShape, read_shape
from convert.families import FAMILIES
from convert.families.family import Family
from convert.heads import AttentionHeads
from convert.merging import METHODS
from tests.convert.free_moves import permute_heads, turn_keys, turn_values
from tests.convert.tiny import CASES, OWN_SIZES

TOKENS = torch.arange(24).reshape(2, 12) % 64
MERGED = ("k", "v", "k_bias", "v_bias", "k_norm")

cases = pytest.mark.parametrize("case", CASES)


class Source:
    """A tiny checkpoint of one case: its folder, family, config and shape."""

    def __init__(self, folder: Path, family: Family) -> None:
        self.folder, self.family = folder, family
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.shape: AttentionShape = read_shape(family, self.config)
        self.tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")

    def split(self, layer: int, tensors: dict[str, Tensor] | None = None) -> AttentionHeads:
        """Heads of one layer."""
        found = self.tensors if tensors is None else tensors
        suffixes = self.family.layout.roles(self.config)
        named = {suffix: found[self.family.tensor(layer, suffix)] for suffix in suffixes}
        return self.family.split_layer(named, self.shape.layer(), self.config)

    def join(self, layer: int, heads: AttentionHeads) -> dict[str, Tensor]:
        """Tensors of one layer, by full name."""
        joined = self.family.join_layer(heads, self.shape.layer(), self.config)
        return {self.family.tensor(layer, suffix): tensor for suffix, tensor in joined.items()}


@pytest.fixture(scope="module")
def kept() -> dict[str, Source]:
    """Sources already made; no test changes one."""
    return {}


@pytest.fixture
def source(case: str, kept: dict[str, Source], make_checkpoint: Callable[..., Path]) -> Source:
    if case not in kept:
        family, changes = CASES[case]
        kept[case] = Source(make_checkpoint(family, **changes), FAMILIES[family])
    return kept[case]


def logits(folder: Path, **options: Any) -> Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, **options).eval()(TOKENS).logits


def fewer(source: Source) -> list[int]:
    return [count for count in (source.shape.kv_heads // 2, 1) if 0 < count < source.shape.kv_heads]


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
def test_only_keys_and_values_change(source: Source, tmp_path: Path) -> None:
    for count in fewer(source):
        out = tmp_path / str(count)
        result = convert(Request(str(source.folder), out, kv_heads=count))
        if result.model_type == "gpt_bigcode":
            continue
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


@cases
def test_native_result_loads_completely_with_fewer_heads(source: Source, tmp_path: Path) -> None:
    for count in fewer(source):
        out = tmp_path / str(count)
        result = convert(Request(str(source.folder), out, kv_heads=count))
        if result.tier == "windowed":
            assert result.model_type == f"windowed_{source.family.model_type}"
            assert json.loads((out / "config.json").read_text())["num_key_value_heads"] == count
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


@cases
@pytest.mark.parametrize("method", sorted({"mean", "first"} & METHODS.keys()))
def test_duplicated_heads_convert_without_loss(
    case: str, method: str, source: Source, tmp_path: Path
) -> None:
    for count in fewer(source):
        folder, out = tmp_path / f"{count}-source", tmp_path / f"{count}-out"
        duplicate_heads(source, count, folder)
        result = convert(Request(str(folder), out, kv_heads=count, merge=method))
        if result.tier == "windowed":
            assert_same_heads(source, load_file(folder / "model.safetensors"), count, out)
        else:
            torch.testing.assert_close(logits(out), logits(folder), rtol=1e-5, atol=1e-5)


@cases
def test_sharded_and_single_give_the_same(case: str, source: Source, make_checkpoint, read_tensors, tmp_path):
    if not fewer(source):
        pytest.skip("one KV head already")
    family, changes = CASES[case]
    sharded = make_checkpoint(family, shard="40KB", **changes)
    assert len(list(sharded.glob("*.safetensors"))) > 1
    for name, folder in (("single", source.folder), ("sharded", sharded)):
        convert(Request(str(folder), tmp_path / name, kv_heads=1, merge="random", seed=5))
    first, second = read_tensors(tmp_path / "single"), read_tensors(tmp_path / "sharded")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def duplicate_heads(source: Source, count: int, folder: Path) -> None:
    """Write the source with all KV heads of a group equal."""
    folder.mkdir()
    size = source.shape.kv_heads // count
    tensors = dict(source.tensors)
    for layer in range(source.shape.layers):
        parts = source.split(layer).parts()
        equal = {
            role: part[::size].repeat_interleave(size, 0) for role, part in parts.items() if role in MERGED
        }
        tensors |= source.join(layer, AttentionHeads(**parts | equal))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(source.config))


def assert_same_heads(source: Source, before: dict[str, Tensor], count: int, out: Path) -> None:
    """Check that the heads of a result, repeated, are those of a source with equal heads."""
    after = load_file(out / "model.safetensors")
    for layer in range(source.shape.layers):
        suffixes = source.family.layout.roles(source.config)
        named = {suffix: after[source.family.tensor(layer, suffix)] for suffix in suffixes}
        parts = source.family.split_layer(named, source.shape.layer(count), source.config).parts()
        for role, part in source.split(layer, before).parts().items():
            repeats = part.shape[0] // parts[role].shape[0]
            assert torch.equal(parts[role].repeat_interleave(repeats, 0), part), role


class Moved:
    """The model of a source in float64, and its logits after a move in every layer."""

    def __init__(self, source: Source) -> None:
        self.source = source
        # The faster kernels for experts know no float64.
        options = {"dtype": torch.float64, "experts_implementation": "eager"}
        self.model = AutoModelForCausalLM.from_pretrained(source.folder, **options).eval()
        self.state = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.before = self.logits()

    def logits(self) -> Tensor:
        with torch.no_grad():
            return self.model(TOKENS, use_cache=False).logits

    def change(self, move: Callable[[AttentionHeads, int], AttentionHeads]) -> float:
        """Largest change of a logit by a move, as a part of the largest logit."""
        state = dict(self.state)
        for layer in range(self.source.shape.layers):
            state |= self.source.join(layer, move(self.source.split(layer, self.state), layer))
        self.model.load_state_dict(state)
        return float((self.logits() - self.before).abs().max() / self.before.abs().max())


@cases
def test_free_moves_leave_the_logits(source: Source) -> None:
    family, config, moved = source.family, source.config, Moved(source)
    noise = torch.Generator().manual_seed(3)
    order = list(range(source.shape.kv_heads))[::-1]

    def turn(heads: AttentionHeads, layer: int) -> AttentionHeads:
        return turn_keys(heads, family.rotary(config, layer), noise)

    changes = {
        "permute": moved.change(lambda heads, layer: permute_heads(heads, order)),
        "values": moved.change(lambda heads, layer: turn_values(heads, noise)),
        "keys": moved.change(turn),
    }
    free = {
        "permute": len(order) == 1 or not family.ordered(config),
        "values": family.fixed(config) is None,
        "keys": family.fixed(config) is None and not family.key_norm(config),
    }
    for move, change in changes.items():
        # Norms and rotary tables are float32 even in a float64 model.
        assert change < 1e-5 if free[move] else change > 1e-3, (move, change)


@cases
def test_other_rotary_pairs_are_not_free(source: Source) -> None:
    family, config = source.family, source.config
    rotaries = [family.rotary(config, layer) for layer in range(source.shape.layers)]
    if family.fixed(config) or family.key_norm(config) or not any(rotary.dims for rotary in rotaries):
        pytest.skip("keys cannot be turned here, or no positions are rotary")
    moved, noise = Moved(source), torch.Generator().manual_seed(3)
    wrong = [type(rotary)(rotary.dims, not rotary.interleaved) for rotary in rotaries]
    none = [type(rotary)(0) for rotary in rotaries]
    assert moved.change(lambda heads, layer: turn_keys(heads, wrong[layer], noise)) > 1e-3
    assert moved.change(lambda heads, layer: turn_keys(heads, none[layer], noise)) > 1e-3


def test_tokenizer_and_generation_config_go_along(make_checkpoint, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    convert(Request(str(source), tmp_path / "out", kv_heads=2))
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (source, tmp_path / "out"))
    assert after("w5 w9 w3").input_ids == before("w5 w9 w3").input_ids
    assert type(after) is type(before)
    assert after.chat_template == before.chat_template is not None
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes(), name


@pytest.mark.parametrize("family", FAMILIES)
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
