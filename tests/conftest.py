"""Without a GPU the Triton kernels run in Triton's interpreter, asked for before they are imported."""

import contextlib
import os
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_configure() -> None:
    """Say in one line what would otherwise be an error in every kernel.

    Raises:
        UsageError: the interpreter of Triton 3.6 and a NumPy that it does not know.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    versions = {}
    for name in ("triton", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = tuple(int(part) for part in version(name).split(".")[:2])
    if versions.get("triton", (4,)) < (3, 7) and versions["numpy"] >= (2, 4):
        raise pytest.UsageError(
            "Triton 3.6 interprets kernels with numpy < 2.4 only: pip install 'numpy<2.4'"
        )


LONGEST_FIRST = ("test_readme.py", "recipes", "eval", "patches", "convert")
"""Files and rooms by how long one of their tests takes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests, so that no process is left alone with one at the end."""

    def rank(item: pytest.Item) -> int:
        names = (item.path.name, item.path.parent.name)
        return next((i for i, name in enumerate(LONGEST_FIRST) if name in names), len(LONGEST_FIRST))

    items.sort(key=rank)
