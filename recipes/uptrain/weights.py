"""The tensors of a checkpoint on disk, by name."""

from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor


class Weights:
    """The tensors of a checkpoint's safetensors files, read one at a time."""

    def __init__(self, folder: Path):
        """Open a checkpoint.

        Args:
            folder: Of the checkpoint.
        """
        self._files = [safe_open(path, framework="pt") for path in sorted(folder.glob("*.safetensors"))]
        self._places = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118 - no dict

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._places[name].get_tensor(name)
        return tensor
