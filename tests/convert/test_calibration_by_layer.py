"""A calibration layer by layer: what is done is kept and not done again, and nothing piles up."""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from convert import ConvertError, Request, convert
from convert.families import FAMILIES
from convert.layerwise.calibrated import compute_with_text
from convert.layerwise.job import Calibration
from convert.layerwise.store import LayerStore
from tests.convert.calibrating import ROWS, job_of, request_with, rows_as_text
from tests.convert.sources import Source


def test_computing_goes_on_where_it_stopped(make_checkpoint, tmp_path: Path) -> None:
    source = Source(make_checkpoint("llama"), FAMILIES["llama"])
    calibration = Calibration("", ROWS.numel(), 2, "cpu", refit=True, steps=5)

    def compute(store: LayerStore) -> list[dict[str, object]]:
        return compute_with_text(job_of(source, 2), calibration, rows_as_text(ROWS), store, lambda *_: None)

    whole, parts = LayerStore(tmp_path / "whole"), LayerStore(tmp_path / "parts")
    first = compute(whole)
    compute(parts)
    kept = parts.path(0).stat().st_mtime_ns
    parts.path(1).unlink()
    parts.path(2).write_bytes(b"cut off")
    assert compute(parts) == first
    assert parts.path(0).stat().st_mtime_ns == kept
    for layer in range(source.shape.layers):
        one, other = load_file(whole.path(layer)), load_file(parts.path(layer))
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def interrupted(make_checkpoint: Callable[..., Path], text: Path, tmp_path: Path) -> Request:
    """The request of a conversion that stopped in its third layer, to be resumed."""
    source = make_checkpoint("llama", max_position_embeddings=32)
    request = request_with(source, tmp_path / "parts", text, calibrate_tokens=256, reconstruct=4)

    def stop(stage: str, done: int, total: int, unit: str) -> None:
        if stage == "layer 2: reconstructing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(request, report=stop)
    assert not request.destination.exists()
    return replace(request, resume=True)


def test_an_interrupted_calibration_is_resumed_layer_by_layer(interrupted: Request, tmp_path: Path) -> None:
    convert(replace(interrupted, destination=tmp_path / "whole", resume=False))
    told: dict[str, tuple[int, int]] = {}

    def report(stage: str, done: int, total: int, unit: str) -> None:
        if stage.startswith("layer"):
            told[stage] = (done, total)

    convert(interrupted, report=report)
    assert "layer 1: running what was computed before" in told
    assert "layer 1: reconstructing" not in told
    assert "layer 2: reconstructing" in told
    done, total = list(told.values())[-1]
    assert done == total
    whole, parts = (tmp_path / name / "model.safetensors" for name in ("whole", "parts"))
    assert parts.read_bytes() == whole.read_bytes()


def test_resuming_with_another_text_is_refused(interrupted: Request, text: Path, tmp_path: Path) -> None:
    before = text.read_text()
    text.write_text(before.upper())
    with pytest.raises(ConvertError, match="another text than when this conversion began"):
        convert(interrupted)
    text.write_text(before)
    convert(interrupted)
    assert interrupted.destination.exists()


def test_live_tensors_do_not_grow_with_depth(
    make_checkpoint, text: Path, tmp_path: Path, monkeypatch
) -> None:
    source = make_checkpoint("llama", num_hidden_layers=8)
    held: list[int] = []
    save = LayerStore.save

    def measure(store: LayerStore, *arguments: object) -> None:
        gc.collect()
        tensors = [each for each in gc.get_objects() if type(each) in (Tensor, torch.nn.Parameter)]
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
        held.append(sum(storages.values()))
        save(store, *arguments)

    monkeypatch.setattr(LayerStore, "save", measure)
    convert(request_with(source, tmp_path / "out", text, refit=True, reconstruct=2))
    assert len(held) == 8
    assert max(held[2:]) == min(held[2:])
