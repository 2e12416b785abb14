"""Files of the source, files of the result: the tensors are the same however they are distributed."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from convert import Request, convert
from convert.merging import METHODS


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_sharded_and_single_give_the_same(
    family, method, make_checkpoint, read_tensors, tmp_path: Path
) -> None:
    single, sharded = make_checkpoint(family), make_checkpoint(family, shard="30KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    convert(Request(str(single), tmp_path / "single", kv_heads=2, merge=method, seed=5))
    convert(Request(str(sharded), tmp_path / "sharded", kv_heads=2, merge=method, seed=5))
    first, second = read_tensors(tmp_path / "single"), read_tensors(tmp_path / "sharded")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) == len(list(sharded.glob("*.safetensors")))


@pytest.mark.parametrize("shard", ["5GB", "30KB"])
def test_max_shard_size(shard: str, make_checkpoint, read_tensors, tmp_path: Path) -> None:
    source = make_checkpoint("llama", shard=shard)
    convert(Request(str(source), tmp_path / "out", kv_heads=4, max_shard_size="40KB"))
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    tensors = read_tensors(tmp_path / "out")
    assert len(files) > 1
    assert all(file.stat().st_size < 40_000 + 4_000 for file in files)
    assert set(index["weight_map"]) == set(tensors)
    assert {file.name for file in files} == set(index["weight_map"].values())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert all(torch.equal(tensors[name], tensor) for name, tensor in read_tensors(source).items())
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info


def test_shards_can_be_joined(make_checkpoint, tmp_path: Path) -> None:
    source = make_checkpoint("llama", shard="30KB")
    convert(Request(str(source), tmp_path / "out", kv_heads=2, max_shard_size="1GiB"))
    assert [file.name for file in (tmp_path / "out").glob("model*")] == ["model.safetensors"]


@pytest.mark.parametrize("source_dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["float32", "fp16", "bfloat16"])
def test_dtype_converts_every_tensor(
    name, source_dtype, make_checkpoint, read_tensors, tmp_path: Path
) -> None:
    wanted = {"float32": torch.float32, "fp16": torch.float16, "bfloat16": torch.bfloat16}[name]
    source = make_checkpoint("llama", source_dtype)
    convert(Request(str(source), tmp_path / "out", kv_heads=4, dtype=name))
    after = read_tensors(tmp_path / "out")
    assert all(torch.equal(after[key], tensor.to(wanted)) for key, tensor in read_tensors(source).items())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == wanted


def test_casting_in_parts_and_mixed_types(make_checkpoint, read_tensors, tmp_path, monkeypatch) -> None:
    from safetensors.torch import load_file, save_file

    source = make_checkpoint("llama")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.odd"] = torch.arange(3).to(torch.bfloat16)
    tensors["model.layers.0.count"] = torch.arange(5)
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    monkeypatch.setattr("convert.weights.writing.CAST_BYTES", 100)
    convert(Request(str(source), tmp_path / "out", kv_heads=2, dtype="bfloat16"))
    after = read_tensors(tmp_path / "out")
    assert after["model.layers.0.count"].tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(after["model.embed_tokens.weight"], tensors["model.embed_tokens.weight"].bfloat16())


def test_plain_reading_and_writing_when_the_kernel_cannot_copy(
    make_checkpoint, read_tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> int:
        raise OSError(38, "not here")

    source = make_checkpoint("llama")
    convert(Request(str(source), tmp_path / "fast", kv_heads=2))
    monkeypatch.setattr("os.copy_file_range", refuse)
    convert(Request(str(source), tmp_path / "send", kv_heads=2))
    monkeypatch.setattr("os.sendfile", refuse)
    convert(Request(str(source), tmp_path / "plain", kv_heads=2))
    fast, send, plain = (tmp_path / name / "model.safetensors" for name in ("fast", "send", "plain"))
    assert fast.read_bytes() == send.read_bytes() == plain.read_bytes()
