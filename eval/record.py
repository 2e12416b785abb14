"""From the outcomes of an evaluation to its one record."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from eval.checkpoint import Checkpoint
from eval.compare import rows_of
from eval.measures import MEASURES
from eval.results import CheckpointRecord, Outcome, Results
from eval.suite import Suite
from eval.text import TextSource

Outcomes = dict[str, dict[str, Outcome]]
"""By measure and checkpoint name."""


def tokenizer_warnings(records: Iterable[CheckpointRecord]) -> list[str]:
    """What makes differences say less, where the checkpoints do not have the same tokenizer files."""
    if len({record.tokenizer_digest for record in records}) == 1:
        return []
    return ["the checkpoints' tokenizer files differ: if they cut text differently, samples do not pair up"]


def results_of(
    checkpoints: list[Checkpoint],
    suite: Suite,
    text: TextSource,
    outcomes: Outcomes,
    command: str,
    surroundings: dict[str, Any],
) -> Results:
    """Put the outcomes into one record; what is absent from them is listed as missing."""
    warnings = [
        line for by_name in outcomes.values() for outcome in by_name.values() for line in outcome.warnings
    ]
    if text.synthetic and any(MEASURES[name].uses_text for name in outcomes):
        warnings.append("measured on the built-in synthetic text: give --text FILE for numbers worth quoting")
    warnings += tokenizer_warnings([checkpoint.record for checkpoint in checkpoints])
    return Results(
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=surroundings,
        seed=suite.seed,
        suite=suite.model_dump(mode="json", exclude_none=True),
        text={"origin": text.origin, "digest": text.digest, "characters": text.characters},
        checkpoints=[checkpoint.record for checkpoint in checkpoints],
        measures={name: MEASURES[name].how for name in outcomes},
        rows=rows_of(outcomes, [checkpoint.name for checkpoint in checkpoints], suite.seed),
        details={
            name: {who: outcome.detail for who, outcome in by_name.items()}
            for name, by_name in outcomes.items()
        },
        warnings=warnings,
        keys={name: {who: outcome.key for who, outcome in by.items()} for name, by in outcomes.items()},
        missing=[
            f"{checkpoint.name}: {name}"
            for checkpoint in checkpoints
            for name, by_name in outcomes.items()
            if checkpoint.name not in by_name
        ],
        wall_s={name: {who: outcome.wall_s for who, outcome in by.items()} for name, by in outcomes.items()},
    )
