"""What an evaluation returns and writes: ``results.json``, schema version 2 (``docs/results.md``).

``rows`` is the table: one row per number, one cell per checkpoint. ``details`` is what the pictures are drawn
from, by measure and checkpoint. Single samples lie beside it in ``samples/NAME/MEASURE.jsonl``.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Literal[2] = 2
Better = Literal["lower", "higher", "neither"]


class Record(BaseModel):
    """A strict record: unknown keys are errors when it is read back."""

    model_config = ConfigDict(extra="forbid")


class Metric(Record):
    """One number of one checkpoint, as a measure returns it.

    Attributes:
        key: Unique in an evaluation, for example ``perplexity`` or ``kv_bytes@512``.
        stderr: Standard error in the metric's own unit; None where the number is exact or n is 1.
        interval: 95% interval, where it says more than the standard error (Wilson's, for rates).
        n: Independent samples behind the number, counted in ``n_of``.
        per_sample: Values, in the metric's unit, whose mean is the metric. Samples of two checkpoints pair
            up where both read the same, so the error of a difference is taken over the differences.
        part_of: Key of the metric of whose samples this one has only those in ``part``: the baseline, which
            may have no such part, is compared over the same ones.
        paired_ratio: Value over the baseline's, where both were measured in turns (speed), and its error.
        headline: Belongs in the short table.
    """

    key: str
    label: str
    value: float | None
    stderr: float | None = None
    interval: tuple[float, float] | None = None
    n: int
    n_of: str
    unit: str = ""
    better: Better = "neither"
    headline: bool = True
    per_sample: list[float] | None = None
    part_of: str | None = None
    part: list[int] | None = None
    paired_ratio: float | None = None
    paired_ratio_stderr: float | None = None


class Outcome(Record):
    """All that one measure found out about one checkpoint.

    Attributes:
        key: Digest of everything that it depends on; empty where nothing was measured.
        read: Digest of the tokens that the checkpoint read, where samples are to pair up by them.
    """

    metrics: list[Metric]
    key: str = ""
    read: str = ""
    detail: dict[str, Any] = Field(default_factory=dict)
    samples: list[dict[str, Any]] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    wall_s: float = 0.0


class Cell(Record):
    """One number in the table.

    Attributes:
        value: The number; None where it could not be measured.
        stderr: Its standard error.
        interval: Its 95% interval, for rates.
        n: Independent samples behind it, counted in ``n_of``.
        delta: Value minus the baseline's; speeds have a ratio only, from runs in turns with the baseline.
        delta_stderr: Its standard error, over the same samples where they pair up.
        delta_interval: Its 95% interval by the paired bootstrap.
        p_value: Of the difference by McNemar's exact test, where samples are right or wrong.
        ratio: Value over the baseline's.
        ratio_stderr: Its standard error.
        samples: File with the samples behind it, relative to ``results.json``; empty if there are none.
    """

    value: float | None
    stderr: float | None
    interval: tuple[float, float] | None
    n: int
    n_of: str
    delta: float | None = None
    delta_stderr: float | None = None
    delta_interval: tuple[float, float] | None = None
    p_value: float | None = None
    ratio: float | None = None
    ratio_stderr: float | None = None
    samples: str = ""


class Row(Record):
    """One line of the table; checkpoints without the number are absent from ``cells``."""

    measure: str
    key: str
    label: str
    unit: str
    better: Better
    headline: bool
    cells: dict[str, Cell]


class GateOutcome(Record):
    """One condition held against one checkpoint.

    Attributes:
        gate: As it was written.
        checkpoint: Its name.
        key: Of the row.
        value: What was measured, or its paired ratio to the baseline's where that is held (speed); None where
            nothing was.
        limit: What it was held against; None where the baseline has no value.
        passed: Whether it holds; False where there is nothing to hold.
        close: Whether value and limit are within two standard errors, so that another sample of the same size
            could decide otherwise; None for exact numbers.
    """

    gate: str
    checkpoint: str
    key: str
    value: float | None
    limit: float | None
    passed: bool
    close: bool | None


class CheckpointRecord(Record):
    """Which checkpoint was measured; ``digest`` covers config, generation settings and weights."""

    name: str
    path: str
    digest: str
    tokenizer_digest: str
    parameters: int
    config: dict[str, Any]


class Results(Record):
    """The whole of ``results.json``. The first checkpoint is the baseline.

    ``keys`` are those of the stored outcomes, by measure and checkpoint; ``missing`` names what an evaluation
    that was stopped has not measured, as ``NAME: MEASURE``; ``notes`` are sentences of the caller about how
    the checkpoints came to be.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    command: str
    date: str
    environment: dict[str, Any]
    seed: int
    suite: dict[str, Any]
    text: dict[str, Any]
    checkpoints: list[CheckpointRecord]
    measures: dict[str, str]
    rows: list[Row]
    details: dict[str, dict[str, dict[str, Any]]]
    warnings: list[str]
    gates: list[GateOutcome] = Field(default_factory=list)
    keys: dict[str, dict[str, str]] = Field(default_factory=dict)
    missing: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    wall_s: dict[str, dict[str, float]]

    def cell(self, key: str, name: str) -> Cell | None:
        """The cell of row ``key`` for checkpoint ``name``; None where it was not measured."""
        return next((row.cells.get(name) for row in self.rows if row.key == key), None)

    @property
    def baseline(self) -> str:
        """Name of the first checkpoint."""
        return self.checkpoints[0].name
