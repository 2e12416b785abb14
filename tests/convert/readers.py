"""What must hold for the readers of weight files and indexes whatever bytes they are given."""

import json
from pathlib import Path

from safetensors import SafetensorError, deserialize

from convert.errors import ConvertError
from convert.weights.checkpoint import INDEX, open_weights
from convert.weights.header import read_header
from convert.weights.layout import plan_files, plan_pieces


def check_header(content: bytes, folder: Path) -> bool:
    """Read bytes as a weight file: a file that safetensors reads alike, or a refusal of one line.

    Args:
        content: The file.
        folder: Where to put it.

    Returns:
        Whether it was accepted.
    """
    path = folder / "model.safetensors"
    path.write_bytes(content)
    try:
        file = read_header(path)
    except ConvertError as error:
        assert "\n" not in str(error) and len(str(error)) < 10_000
        return False
    assert sum(entry.nbytes for entry in file.entries) <= len(content)
    try:
        theirs = dict(deserialize(content))
    except SafetensorError as error:
        raise AssertionError(f"accepted although safetensors says: {error}") from error
    assert {entry.name: list(entry.shape) for entry in file.entries} == {
        name: tensor["shape"] for name, tensor in theirs.items()
    }
    return True


def check_index(content: bytes, folder: Path) -> bool:
    """Read bytes as an index beside the weight files of ``folder``: never a file outside, never a traceback.

    Args:
        content: The index.
        folder: A folder with weight files.

    Returns:
        Whether it was accepted.
    """
    (folder / INDEX).write_bytes(content)
    try:
        weights = open_weights(folder)
    except ConvertError as error:
        assert "\n" not in str(error)
        return False
    assert all(file.path.parent == folder for file in weights.files)
    assert set(json.loads(content)["weight_map"]) <= set(weights.tensors)
    assert plan_files(plan_pieces(weights, {}, (), None), None)
    return True
