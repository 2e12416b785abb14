"""Calibrations that are refused or told about, and the texts that they take."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from convert import ConvertError, Request, convert
from tests.convert.calibrating import request_with


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibrate": None, "refit": True}, "refit needs a calibration text"),
        ({"calibrate": None, "reconstruct": 5}, "reconstruct=5 needs a calibration text"),
        ({"calibrate": "no.txt"}, "does not exist"),
        ({"calibrate": "."}, "is a folder"),
        ({"calibrate_tokens": 0}, "calibrate_tokens=0 must be at least 1"),
        ({"calibrate_batch": 5000}, "less than one batch of 5000 rows"),
        ({"reconstruct": -1}, "reconstruct=-1"),
        ({"device": "gpu9"}, "device='gpu9' cannot be used here"),
        ({"device": "meta"}, "holds no numbers"),
        ({"group": "serach"}, "did you mean 'search'"),
        ({"merge": "random"}, "has no use for --calibrate"),
        ({"merge": "random", "calibrate": None, "group": "search"}, "has no use for --group search"),
    ],
)
def test_wrong_requests_are_refused(options, message: str, make_checkpoint, text, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=message):
        convert(request_with(make_checkpoint("llama"), tmp_path / "out", text, **options))
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("option", "value"), [("calibrate_tokens", 99), ("calibrate_batch", 2), ("device", "cuda")]
)
def test_options_of_calibration_need_a_text(
    option: str, value: object, make_checkpoint, tmp_path: Path
) -> None:
    request = Request(str(make_checkpoint("llama")), tmp_path / "out", kv_heads=2, **{option: value})
    with pytest.raises(ConvertError, match=f"{option}={value!r} needs a calibration text"):
        convert(request)


def test_a_missing_table_is_missing_with_its_column_too(make_checkpoint, tmp_path: Path) -> None:
    request = request_with(make_checkpoint("llama"), tmp_path / "out", tmp_path / "none.jsonl:body")
    with pytest.raises(ConvertError, match=r"none\.jsonl:body' does not exist"):
        convert(request)


def test_a_method_that_nothing_needs_is_told(make_checkpoint, tmp_path: Path) -> None:
    source = str(make_checkpoint("llama"))
    result = convert(Request(source, tmp_path / "out", window=16, merge="subspace"))
    assert result.notes == ("The KV heads stay as they are, so nothing was merged",)


def test_too_little_memory_is_one_line(make_checkpoint, text: Path, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("convert.layerwise.calibrated.merge_heads", full)
    with pytest.raises(ConvertError, match="device='cpu' lacks memory for calibrate_batch=4"):
        convert(request_with(make_checkpoint("llama"), tmp_path / "out", text))
    assert not (tmp_path / "out").exists()


def test_a_source_that_gives_nan_is_named(make_checkpoint, text: Path, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"].fill_(torch.inf)
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConvertError, match="layer 1 cannot be calibrated: the second moment"):
        convert(request_with(source, tmp_path / "out", text))


def test_computed_numbers_beyond_float16_are_refused(make_checkpoint, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.self_attn.v_proj.weight"] *= 1e7
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConvertError, match=r"layers\.1\.self_attn\..* beyond float16's 65504"):
        convert(Request(str(source), tmp_path / "out", kv_heads=2, merge="subspace", dtype="float16"))


@pytest.mark.parametrize("method", ["subspace", "procrustes"])
def test_clipped_heads_are_not_rotated(method: str, make_checkpoint, tmp_path: Path) -> None:
    source = make_checkpoint("olmo", clip_qkv=0.3)
    with pytest.raises(ConvertError, match="clips every number"):
        convert(Request(str(source), tmp_path / "out", kv_heads=1, merge=method))


def test_a_text_that_nothing_needs_is_told(make_checkpoint, text: Path, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    result = convert(request_with(source, tmp_path / "out", text, kv_heads=4))
    assert "was not read" in result.notes[0]
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "out"))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_key_norm_is_told(make_checkpoint, tmp_path: Path) -> None:
    result = convert(Request(str(make_checkpoint("qwen3")), tmp_path / "out", kv_heads=1, merge="subspace"))
    assert "keys are averaged" in result.notes[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"body": "w1 w2 w3"}\n' * 400),
        ("a.csv", "id,body\n" + "1,w1 w2 w3\n" * 400),
    ],
)
def test_text_in_a_table(name: str, content: str, make_checkpoint, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    source = make_checkpoint("llama", max_position_embeddings=16)
    spec = f"{tmp_path / name}:body"
    request = request_with(source, tmp_path / "out", Path(spec), merge="subspace", calibrate_tokens=128)
    assert convert(request).provenance["calibration"]["tokens"] == 128
    wrong = request_with(source, tmp_path / "b", tmp_path / name, merge="subspace")
    with pytest.raises(ConvertError, match=r"no text in column 'text'; its columns: .*body"):
        convert(wrong)


def test_hub_data_set_fails_in_one_line(make_checkpoint, tmp_path: Path, monkeypatch) -> None:
    import datasets

    def unreachable(*arguments: str, **options: object) -> None:
        assert arguments == ("org/texts", "en")
        assert options == {"split": "test", "streaming": True}
        raise ConnectionError("no network\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    request = request_with(make_checkpoint("llama"), tmp_path / "out", Path("org/texts:en:test:body"))
    with pytest.raises(ConvertError, match=r"could not be read: no network$"):
        convert(request)


def test_progress_counts_every_step(make_checkpoint, text: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int, str]] = []
    report: Callable[[str, int, int, str], None] = lambda *call: told.append(call)  # noqa: E731
    request = request_with(make_checkpoint("llama"), tmp_path / "out", text, reconstruct=4)
    convert(request, report=report)
    steps = [call for call in told if call[3] == "steps"]
    assert steps[-1][1] == steps[-1][2]
    assert [call[1] for call in steps] == sorted(call[1] for call in steps)
    assert any("reconstructing" in call[0] for call in steps)
