"""Bases in which a head's keys or values have few coordinates: from tokens, or from a checkpoint's file."""

from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import cached_file

from patches.cache.stored import PIECE
from patches.policy import PolicyError

FILE = "kv_bases.safetensors"
"""Beside the weights: for every layer and side a tensor ``[K, D, R]``, named by ``entry``."""
SIDES = ("key", "value")


def entry(layer: int, side: str) -> str:
    """The name of a tensor in the file."""
    return f"layers.{layer}.{side}_bases"


def second_moment(tokens: Tensor) -> Tensor:
    """``tokens^T tokens`` in float64, ``[..., D, D]`` from ``[..., N, D]``, some tokens at a time.

    It is not centered: a mean takes one direction, usually the first, and keeps coordinates free of an offset
    that every read would have to add again.
    """
    dim = tokens.shape[-1]
    total = tokens.new_zeros(*tokens.shape[:-2], dim, dim, dtype=torch.float64)
    for piece in tokens.split(PIECE, dim=-2):
        wide = piece.double()
        total += wide.transpose(-1, -2) @ wide
    return total


def principal_directions(moment: Tensor, rank: int) -> Tensor:
    """The orthonormal columns ``[..., D, rank]`` that keep the most of a second moment ``[..., D, D]``.

    The best approximation of that rank in the sum of squares (Eckart and Young, 1936).
    """
    return torch.linalg.eigh(moment).eigenvectors.flip(-1)[..., :rank]


def read_bases(checkpoint: str, layer: int, kv_heads: int, head_dim: int, rank: int) -> tuple[Tensor, Tensor]:
    """Bases of the keys and the values of a layer, ``[K, D, rank]`` each, as a calibration left them.

    Args:
        checkpoint: Folder or hub id of the model.
        layer: Its index.
        kv_heads: ``K``.
        head_dim: ``D``.
        rank: Columns to read.

    Raises:
        PolicyError: there is no file, or its bases are not for such a layer, or have fewer columns.
    """
    with safe_open(find_file(checkpoint), framework="pt") as file:
        names = set(file.keys())
        sides = []
        for side in SIDES:
            name = entry(layer, side)
            if name not in names:
                raise PolicyError(f"{FILE} of {checkpoint} has no {name}; {_how(checkpoint)}")
            held = file.get_slice(name)
            shape = held.get_shape()
            if shape[:2] != [kv_heads, head_dim] or shape[2] < rank:
                raise PolicyError(
                    f"{FILE} of {checkpoint}: {name} is {shape}, and {[kv_heads, head_dim, rank]} is needed; "
                    f"{_how(checkpoint)}"
                )
            sides.append(held[:, :, :rank])
    keys, values = sides
    return keys, values


@lru_cache
def find_file(checkpoint: str) -> str:
    """The path of a checkpoint's bases, brought from the hub where it is not a folder.

    Raises:
        PolicyError: there is no such file.
    """
    path = None
    if checkpoint:
        try:
            path = cached_file(checkpoint, FILE)
        except OSError:
            path = None
    if path is None or not Path(path).is_file():
        where = f"{checkpoint} has no {FILE}" if checkpoint else "the model was not loaded from a checkpoint"
        raise PolicyError(f"bases=calibration: {where}; {_how(checkpoint)}, or use bases=prompt")
    return path


def _how(checkpoint: str) -> str:
    return f"make it with: python -m patches bases {checkpoint or 'FOLDER'} --text FILE"
