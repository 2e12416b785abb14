"""What is asked, and what ``results.json`` of a comparison of caches holds."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from eval.checkpoint import Checkpoint
from eval.results import CheckpointRecord, Record, Row
from eval.text import TextSource

SCHEMA_VERSION: Literal[1] = 1
BASELINE = "full"
"""The policy that keeps everything, which all others are compared with."""
Verdict = Literal["measured", "not installed", "cannot run"]


@dataclass(frozen=True)
class Ask:
    """What to measure.

    Attributes:
        policies: For global and for window layers, as a user writes them; the first keeps everything.
        lengths: Tokens of the documents, ascending.
        samples: Documents of every length, for perplexity and for each kind of retrieval.
        kinds: Names from ``eval.retrieval.KINDS``.
        chunk: Tokens of a pass, once half of a document has been read.
        peers: Whether to measure the quantized caches of transformers too.
        runs: Timed decode steps of each, at most.
    """

    checkpoint: Checkpoint
    policies: tuple[tuple[str, str], ...]
    text: TextSource
    lengths: tuple[int, ...]
    samples: int
    kinds: tuple[str, ...]
    chunk: int
    peers: bool
    runs: int
    device: torch.device
    dtype: torch.dtype
    threads: int
    seed: int


class ContenderRecord(Record):
    """One way of keeping a cache.

    Attributes:
        name: The policies, or what transformers calls it.
        verdict: Whether there are numbers.
        reason: Why there are none.
        peak: Bytes beside those that it keeps, in its own words.
    """

    name: str
    verdict: Verdict = "measured"
    reason: str = ""
    peak: str = ""


class Report(Record):
    """``results.json``: one row per number, one cell per contender; the first keeps everything.

    Attributes:
        settings: What was asked, besides checkpoint and text.
        details: Single losses, answers and times, by measure and contender.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    command: str
    date: str
    wall_s: float
    environment: dict[str, Any]
    checkpoint: CheckpointRecord
    text: dict[str, Any]
    settings: dict[str, Any]
    contenders: list[ContenderRecord]
    rows: list[Row]
    details: dict[str, dict[str, dict[str, Any]]]
    warnings: list[str]

    def row(self, key: str) -> Row | None:
        """The row of a key; None where nothing of the kind was measured."""
        return next((row for row in self.rows if row.key == key), None)
