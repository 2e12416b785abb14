"""The tensors of a checkpoint on disk, by name."""

from collections.abc import Collection, Iterable, Iterator
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


def names_in_model(names: Iterable[str], known: Collection[str], prefix: str) -> dict[str, str]:
    """What a model calls the tensors of a checkpoint.

    A checkpoint that was saved without its head leaves out the name of the base model, as GPT-2 and BLOOM on
    the hub do; transformers puts it in when it loads one.

    Args:
        names: Of the checkpoint's tensors.
        known: Of the model's tensors.
        prefix: The model's ``base_model_prefix``.

    Returns:
        The model's name for each; those that the model has no use for are left out.
    """
    found = {}
    for name in names:
        if name in known:
            found[name] = name
        elif f"{prefix}.{name}" in known:
            found[name] = f"{prefix}.{name}"
    return found
