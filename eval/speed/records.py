"""What is asked, and what ``speed.json`` holds."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel

from eval.speed.shapes import Shape

Computes = Literal["window + sinks", "window", "dense"]
"""Which keys a query meets: contenders that differ here are not the same function."""

Verdict = Literal["timed", "wrong", "cannot run"]
FORWARD, BACKWARD = "forward", "forward + backward"
ATTENTION, CACHE, MODEL = "decode, attention", "decode, cache + attention", "decode, model"
OWN = "headroom"
"""How the names of our own contenders begin."""
SCHEMA_VERSION = 1


class Unable(Exception):
    """Why a contender cannot run here."""


@dataclass(frozen=True)
class Ask:
    """What to time.

    Attributes:
        shape: Of the model, ``layers`` already those that are built.
        checkpoint: A folder whose weights and hidden states are used; None for random ones.
        layers_of: Layers that the model really has.
        lengths: Tokens before or in a pass.
        window: ``W``.
        sinks: ``S``.
        batches: Batch sizes.
        phases: ``FORWARD`` to ``MODEL``, those that are asked for.
        backends: Names from ``patches.attention.backends``, or None for all.
        skip: Parts of names of contenders to leave out.
        runs: Timed runs of every contender, at most.
        limit_s: Seconds for the runs of one contender in one row; it always gets one.
        threads: Of the processor.
    """

    shape: Shape
    checkpoint: str | None
    layers_of: int
    lengths: tuple[int, ...]
    window: int
    sinks: int
    batches: tuple[int, ...]
    phases: tuple[str, ...]
    backends: tuple[str, ...] | None
    skip: tuple[str, ...]
    runs: int
    limit_s: float
    device: torch.device
    dtype: torch.dtype
    threads: int
    seed: int

    @property
    def element_bytes(self) -> int:
        """Bytes of one number."""
        return self.dtype.itemsize


class Ceilings(BaseModel):
    """What this machine does at best, measured in the same run.

    Attributes:
        copy_bytes_per_s: A large copy, bytes read plus bytes written.
        matmul_flop_per_s: A large square product in the same dtype.
    """

    copy_bytes_per_s: float
    matmul_flop_per_s: float


class Row(BaseModel):
    """One contender in one phase, at one length and batch.

    Attributes:
        turns_ms: Milliseconds of its run in every turn, in order; it may have left out the last ones.
        ms: Their median; None where nothing was timed.
        low_ms: First quartile.
        high_ms: Third quartile.
        slower: Median over the turns of its time over that of the first of ours that was timed, in the same
            turn; None where none of ours was.
        error: Relative error: of attention against float64 on sampled queries, gradients included where
            there are any; of a model's logits against the dense model's under the same mask, in its dtype.
        flop_fraction: FLOP/s that its mask needs, over the measured ceiling.
        byte_fraction: Bytes that must be moved, per second, over the measured ceiling.
        bound_ms: Those bytes at the measured ceiling.
    """

    phase: str
    contender: str
    computes: Computes
    length: int
    batch: int
    verdict: Verdict
    reason: str = ""
    turns_ms: list[float] = []
    ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    slower: float | None = None
    error: float | None = None
    flop_fraction: float | None = None
    byte_fraction: float | None = None
    bound_ms: float | None = None


class Report(BaseModel):
    """``speed.json``."""

    schema_version: int = SCHEMA_VERSION
    command: str
    date: str
    wall_s: float
    environment: dict[str, Any]
    shape: dict[str, Any]
    layers_of: int
    data: str
    window: int
    sinks: int
    ceilings: Ceilings
    rows: list[Row]
