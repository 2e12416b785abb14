"""A source that is shortened, touched, replaced or removed while it is read."""

import os
from pathlib import Path

import pytest

from convert import ConvertError, Request, convert


def shrink(file: Path) -> None:
    os.truncate(file, 6000)


def touch(file: Path) -> None:
    os.utime(file, (1, 1))


def swap(file: Path) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_bytes(file.read_bytes())
    fresh.replace(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shrink, "became shorter|changed while"),
        (touch, "changed while"),
        (swap, "replaced while"),
        (Path.unlink, "No such file|removed while"),
    ],
)
@pytest.mark.parametrize(
    "moment", ["convert.plan.check_space", "convert.weights.arrays.StoredTensor.is_finite"]
)
def test_source_that_changes_is_noticed(
    moment: str, change, message: str, make_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between planning and in the midst of reading; what is replaced gives its first argument."""
    source = make_checkpoint("llama")

    def interfere(*args: object) -> object:
        if (source / "model.safetensors").exists():
            change(source / "model.safetensors")
        return args[0]

    monkeypatch.setattr(moment, interfere)
    with pytest.raises(ConvertError, match=message):
        convert(Request(str(source), tmp_path / "out", kv_heads=2))
    assert list(tmp_path.iterdir()) == []
