"""All weight files of a checkpoint folder, as one table of tensors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from convert.errors import ConvertError
from convert.json_file import read_json
from convert.weights.header import TensorEntry, WeightFile, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


@dataclass(frozen=True)
class Located:
    """A tensor and the file that holds it."""

    file: WeightFile
    entry: TensorEntry


@dataclass(frozen=True)
class Weights:
    """The weight files of a checkpoint in order, and every tensor by name."""

    files: tuple[WeightFile, ...]
    tensors: Mapping[str, Located]

    @property
    def parameters(self) -> int:
        """Elements in all tensors."""
        return sum(math.prod(located.entry.shape) for located in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all weight files."""
        return sum(file.nbytes for file in self.files)


def open_weights(folder: Path) -> Weights:
    """Read the headers of a checkpoint's weight files, single or sharded. Pickles are never opened.

    Args:
        folder: The checkpoint folder.

    Returns:
        Its files and tensors.

    Raises:
        ConvertError: there are no safetensors files, the index disagrees with the files or points outside the
            folder, or a file is broken.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file():
        file = read_header(single)
        return Weights((file,), _table((file,)))
    if not index.is_file():
        raise ConvertError(_no_weights(folder))
    weight_map = _weight_map(index)
    files = tuple(read_header(folder / name) for name in sorted(set(weight_map.values())))
    tensors = _table(files)
    for tensor, name in weight_map.items():
        if tensor not in tensors or tensors[tensor].file.path.name != name:
            raise ConvertError(f"{INDEX} places tensor {tensor!r} in {name}, which does not hold it")
    return Weights(files, tensors)


def _table(files: tuple[WeightFile, ...]) -> dict[str, Located]:
    tensors: dict[str, Located] = {}
    for file in files:
        for entry in file.entries:
            if entry.name in tensors:
                other = tensors[entry.name].file.path.name
                raise ConvertError(f"tensor {entry.name!r} is in both {other} and {file.path.name}")
            tensors[entry.name] = Located(file, entry)
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConvertError(f"{INDEX} has no weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or not name or Path(name).name != name or "\\" in name or "\0" in name:
            raise ConvertError(f"{INDEX} names a file outside the folder: {name!r}")
        if not name.endswith(".safetensors"):
            raise ConvertError(f"{INDEX} names {name!r}, which is not a safetensors file")
        if not (index.parent / name).is_file():
            raise ConvertError(f"{INDEX} names {name!r}, which is missing")
    return weight_map


def _no_weights(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in names if name.endswith(PICKLES)]
    others = [name for name in names if name.endswith(".safetensors")]
    if pickles:
        return (
            f"{folder} holds no safetensors weights; {pickles[0]} is a pickle and is never opened "
            "(save the model with safetensors first)"
        )
    found = f"; found {', '.join(others[:3])}" if others else ""
    return f"{folder} holds neither {SINGLE} nor {INDEX}{found}"
