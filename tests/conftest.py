"""Without a GPU the Triton kernels run in Triton's interpreter, asked for before they are imported."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


LONGEST_FIRST = ("test_readme.py", "recipes", "eval", "patches", "convert")
"""Files and rooms by how long one of their tests takes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests, so that no process is left alone with one at the end."""

    def rank(item: pytest.Item) -> int:
        names = (item.path.name, item.path.parent.name)
        return next((i for i, name in enumerate(LONGEST_FIRST) if name in names), len(LONGEST_FIRST))

    items.sort(key=rank)
