"""A result that is not what was planned is noticed and never appears."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from convert import ConvertError, Request, convert
from convert.weights import comparing


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def flip(place: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = bytearray(weights(folder).read_bytes())
        content[place] ^= 1
        weights(folder).write_bytes(content)

    return change


def flip_first(folder: Path) -> None:
    flip(8 + int.from_bytes(weights(folder).read_bytes()[:8], "little"))(folder)


def retensor(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        tensors = load_file(weights(folder))
        change(tensors)
        save_file(tensors, weights(folder), {"format": "pt"})

    return rewrite


def reconfigure(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"num_key_value_heads": 4}
    (folder / "config.json").write_text(json.dumps(config))


K0 = "model.layers.0.self_attn.k_proj.weight"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte of a tensor": (flip_first, "is not the source's"),
    "a byte of the header": (flip(20), ""),
    "truncated": (lambda folder: os.truncate(weights(folder), 50_000), "is truncated"),
    "a tensor is gone": (retensor(lambda tensors: tensors.pop(K0)), f"'{K0}' on the disk is missing"),
    "a tensor too many": (retensor(lambda t: t.update(x=torch.zeros(2))), "planned was none of this name"),
    "another shape": (
        retensor(lambda t: t.update({K0: torch.zeros(8, 32)})),
        "planned was ('F32', (16, 32))",
    ),
    "another type": (retensor(lambda t: t.update({K0: t[K0].half()})), "is ('F16', (16, 32))"),
    "a file is gone": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "a file too many": (lambda folder: (folder / "evil.py").write_text(""), "evil.py does not belong there"),
    "another config": (reconfigure, "config.json on the disk is not what was written"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed(damage: str, make_checkpoint, tmp_path: Path, monkeypatch) -> None:
    from convert.verify import verify

    change, message = DAMAGE[damage]

    def damaged(folder: Path, *more: object) -> None:
        change(folder)
        verify(folder, *more)

    monkeypatch.setattr("convert.pipeline.verify", damaged)
    source = make_checkpoint("llama")
    with pytest.raises(ConvertError) as refused:
        convert(Request(str(source), tmp_path / "out", kv_heads=2))
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_full_sees_every_byte(make_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small samples miss a byte in the middle of the largest tensor, ``full`` does not."""
    from convert.verify import verify

    def damaged(folder: Path, *more: object) -> None:
        flip(-5000)(folder)
        verify(folder, *more)

    monkeypatch.setattr("convert.pipeline.verify", damaged)
    monkeypatch.setattr(comparing, "SAMPLE_BYTES", 1)
    source = make_checkpoint("llama")
    convert(Request(str(source), tmp_path / "sampled", kv_heads=2))
    with pytest.raises(ConvertError, match="is not the source's"):
        convert(Request(str(source), tmp_path / "full", kv_heads=2, verify="full"))
    assert [path.name for path in tmp_path.iterdir()] == ["sampled"]


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mixtral", "phi3", "gpt2", "bloom", "gpt_neox"])
def test_full_agrees_with_good_results(family: str, kv_heads: int, make_checkpoint, tmp_path: Path) -> None:
    convert(Request(str(make_checkpoint(family)), tmp_path / "out", kv_heads=kv_heads, verify="full"))


def test_full_of_other_tiers_and_tied_weights(make_checkpoint, fake_patches: Path, tmp_path: Path) -> None:
    source = make_checkpoint("llama", tie_word_embeddings=True)
    convert(Request(str(source), tmp_path / "native", window=8, verify="full"))
    request = Request(str(source), tmp_path / "windowed", kv_heads=2, window=8, sinks=2, verify="full")
    convert(request, code_root=fake_patches)


def test_full_asks_transformers(make_checkpoint, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    tensors = load_file(weights(source))
    tensors["model.layers.0.stray"] = torch.zeros(3)
    save_file(tensors, weights(source), {"format": "pt"})
    convert(Request(str(source), tmp_path / "sampled", kv_heads=2))
    with pytest.raises(ConvertError, match=r"model.layers.0.stray unexpected"):
        convert(Request(str(source), tmp_path / "full", kv_heads=2, verify="full"))


def test_levels(make_checkpoint, run, tmp_path: Path) -> None:
    finished = run(make_checkpoint("llama"), tmp_path / "out", "--kv-heads", "2", "--verify", "ful")
    assert finished.err == "error: verify='ful' is not known (did you mean 'full'?); allowed: full, sample\n"
