"""Sharing KV heads out among layers."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from convert import ConvertError, Request, convert
from convert.families import FAMILIES
from convert.head_counts import allocate_heads, parse_kv_heads
from tests.convert.sources import Source, duplicate_heads


@pytest.mark.parametrize("wanted", [0, -1, 3, 16, "0", "3"])
def test_wrong_head_counts_are_answered_with_the_right_ones(wanted: int | str) -> None:
    with pytest.raises(ConvertError, match="try 1, 2, 4, 8"):
        parse_kv_heads(wanted, 8)


@pytest.mark.parametrize("wanted", ["four", "auto", "Auto:2", "2.5", "auto:", "auto:x", "auto:0.5", "auto:9"])
def test_what_is_no_count_is_answered_with_what_is(wanted: str) -> None:
    with pytest.raises(
        ConvertError, match=r"nor auto:MEAN, such as auto:2|must be from 1 to the checkpoint's 8"
    ):
        parse_kv_heads(wanted, 8)


def test_counts_and_means_are_read() -> None:
    assert (parse_kv_heads("4", 8), parse_kv_heads(8, 8), parse_kv_heads(None, 8)) == (4, 8, 8)
    assert parse_kv_heads("auto:2.5", 8) == 2.5
    assert isinstance(parse_kv_heads("auto:2", 8), float)


@pytest.mark.parametrize("mean", [1.0, 1.5, 2.0, 3.2, 4.0])
def test_no_allocation_within_the_budget_loses_less(mean: float) -> None:
    generator = torch.Generator().manual_seed(3)
    losses = []
    for _ in range(5):
        drawn = torch.rand(3, generator=generator).sort(descending=True).values.tolist()
        losses.append(dict(zip((1, 2, 4), [*drawn[:2], 0.0], strict=True)))
    chosen = allocate_heads(losses, mean)
    assert sum(chosen) <= mean * 5
    best = min(
        sum(loss[count] for loss, count in zip(losses, counts, strict=True))
        for counts in itertools.product((1, 2, 4), repeat=5)
        if sum(counts) <= mean * 5
    )
    assert sum(loss[count] for loss, count in zip(losses, chosen, strict=True)) == pytest.approx(best)


def test_a_layer_whose_heads_are_equal_gives_its_heads_to_the_others(make_checkpoint, tmp_path: Path) -> None:
    source = Source(make_checkpoint("llama"), FAMILIES["llama"])
    duplicate_heads(source, 1, tmp_path / "equal")
    equal = Source(tmp_path / "equal", source.family)
    # Layer 1 alone has equal heads.
    tensors = source.tensors | {name: each for name, each in equal.tensors.items() if ".layers.1." in name}
    source.tensors = tensors
    from safetensors.torch import save_file

    save_file(tensors, source.folder / "model.safetensors")
    result = convert(Request(str(source.folder), tmp_path / "out", kv_heads="auto:3", merge="subspace"))
    assert result.provenance["kv_heads"] == [4, 1, 4]
    assert result.tier == "windowed"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_key_value_heads"] == 4
    assert config["per_layer_config"] == {"1": {"num_key_value_heads": 1}}
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert [written[f"model.layers.{n}.self_attn.k_proj.weight"].shape[0] for n in range(3)] == [32, 8, 32]
    assert all(torch.equal(written[name], tensors[name]) for name in tensors if ".layers.1." not in name)
    per_token = next(row for row in result.rows if row.label == "KV cache per token")
    assert per_token.after * 12 == per_token.before * 9
    assert "3 on average (layer by layer 4, 1, 4)" in (tmp_path / "out" / "README.md").read_text()


def test_an_even_share_is_a_uniform_result(make_checkpoint, tmp_path: Path) -> None:
    result = convert(Request(str(make_checkpoint("llama")), tmp_path / "out", kv_heads="auto:1"))
    assert (result.tier, result.provenance["kv_heads"]) == ("native-gqa", 1)


def test_a_window_goes_with_it(make_checkpoint, tmp_path: Path) -> None:
    request = Request(
        str(make_checkpoint("llama")),
        tmp_path / "out",
        kv_heads="auto:3",
        window=16,
        sinks=2,
        merge="subspace",
    )
    config = json.loads((convert(request).path / "config.json").read_text())
    assert config["attention_window"]["size"] == 16
    assert config["per_layer_config"]


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("gpt2", "cannot differ in their KV heads.*llama"),
        ("opt", "cannot differ in their KV heads.*llama"),
        ("gemma2", "sliding window of its own"),
    ],
)
def test_families_that_cannot_express_it_say_so(family, message, make_checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=message):
        convert(Request(str(make_checkpoint(family)), tmp_path / "out", kv_heads="auto:2"))


def test_a_text_decides_too(make_checkpoint, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{number * 7 % 61}" for number in range(2000)))
    request = Request(
        str(make_checkpoint("llama", max_position_embeddings=32)),
        tmp_path / "out",
        kv_heads="auto:2.4",
        merge="subspace",
        calibrate=str(text),
        calibrate_tokens=512,
        refit=True,
    )
    result = convert(request)
    assert sum(result.provenance["kv_heads"]) <= 7
    assert len(result.provenance["layers"]) == 3
