"""Without a GPU the Triton kernels run in Triton's interpreter, asked for before they are imported."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")
