"""What an evaluation returns and writes: ``results.json``, schema version 1.

``rows`` is the table: one row per number, one cell per checkpoint. ``details`` is what the pictures are drawn
from, by measure and checkpoint. Single samples lie beside it in ``samples/NAME/MEASURE.jsonl``.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Literal[1] = 1
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
        read: Digest of the tokens that the checkpoint read, where samples are to pair up by them.
    """

    metrics: list[Metric]
    read: str = ""
    detail: dict[str, Any] = Field(default_factory=dict)
    samples: list[dict[str, Any]] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    wall_s: float = 0.0


class Cell(Record):
    """One number in the table. ``delta`` is value minus baseline, ``ratio`` value over baseline.

    Speeds have a ratio only, from runs in turns with the baseline.
    """

    value: float | None
    stderr: float | None
    interval: tuple[float, float] | None
    n: int
    n_of: str
    delta: float | None = None
    delta_stderr: float | None = None
    ratio: float | None = None
    ratio_stderr: float | None = None


class Row(Record):
    """One line of the table; checkpoints without the number are absent from ``cells``."""

    measure: str
    key: str
    label: str
    unit: str
    better: Better
    headline: bool
    cells: dict[str, Cell]


class CheckpointRecord(Record):
    """Which checkpoint was measured. ``digest`` covers config and weights, ``tokenizer_digest`` the "
    "tokenizer."""

    name: str
    path: str
    digest: str
    tokenizer_digest: str
    parameters: int
    config: dict[str, Any]


class Results(Record):
    """The whole of ``results.json``. The first checkpoint is the baseline."""

    schema_version: Literal[1] = SCHEMA_VERSION
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
    wall_s: dict[str, dict[str, float]]

    def cell(self, key: str, name: str) -> Cell | None:
        """The cell of row ``key`` for checkpoint ``name``; None where it was not measured."""
        return next((row.cells.get(name) for row in self.rows if row.key == key), None)

    @property
    def baseline(self) -> str:
        """Name of the first checkpoint."""
        return self.checkpoints[0].name
