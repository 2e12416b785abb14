"""Gates: what a checkpoint must reach for ``python -m eval`` to end with exit code 0."""

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass

from eval.errors import EvalError, unknown_name
from eval.results import Cell, GateOutcome, Row

FAILED = 1
"""Exit code where a gate is not passed."""
GATE_HELP = (
    "What every checkpoint but the first must reach, or the exit code is 1: "
    "needle>=0.95*baseline,ppl<=1.02*baseline,kv_bytes@512<=1MiB."
)
SHORT = {"ppl": "perplexity"}
_SIGNS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_GATE = re.compile(
    r"(?P<key>[^<>=*\s]+)\s*(?P<sign><=|>=|<|>)\s*(?P<number>[0-9.]+(?:e[+-]?[0-9]+)?)(?P<unit>%|KiB|MiB|GiB)?"
    r"(?:\s*\*\s*(?P<relative>baseline))?"
)
_UNITS = {None: 1.0, "%": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}


@dataclass(frozen=True)
class Gate:
    """One condition.

    Attributes:
        text: As it was written.
        key: Of a row of the table.
        sign: One of ``<=``, ``>=``, ``<``, ``>``.
        number: The limit, or the factor on the baseline's value.
        relative: Whether it is such a factor.
    """

    text: str
    key: str
    sign: str
    number: float
    relative: bool


def read_gates(text: str) -> list[Gate]:
    """Read conditions such as ``needle>=0.95*baseline, ppl<=1.02*baseline, kv_bytes@512<=1MiB``.

    Raises:
        EvalError: one of them is not understood.
    """
    gates = []
    for part in (each.strip() for each in text.split(",")):
        found = _GATE.fullmatch(part)
        if found is None:
            raise EvalError(
                f"--gate {part!r} must be METRIC<=NUMBER or METRIC>=NUMBER*baseline, for example "
                "needle>=0.95*baseline or kv_bytes@512<=1MiB"
            )
        number = float(found["number"]) * _UNITS[found["unit"]]
        key = SHORT.get(found["key"], found["key"])
        gates.append(Gate(part, key, found["sign"], number, found["relative"] is not None))
    return gates


def hold_gates(gates: Sequence[Gate], rows: Sequence[Row], names: Sequence[str]) -> list[GateOutcome]:
    """Hold every checkpoint but the first against every gate; the first too, if it is alone.

    Args:
        gates: The conditions.
        rows: The table.
        names: Checkpoints in order; the first is the baseline.

    Raises:
        EvalError: a gate names a number that was not measured.
    """
    by_key = {row.key: row for row in rows}
    outcomes = []
    for gate in gates:
        if gate.key not in by_key:
            raise EvalError("--gate: " + unknown_name("metric", gate.key, list(by_key)))
        row = by_key[gate.key]
        baseline = row.cells.get(names[0])
        outcomes += [_hold(gate, row.cells.get(name), baseline, name) for name in names[1:] or names]
    return outcomes


def _hold(gate: Gate, cell: Cell | None, baseline: Cell | None, name: str) -> GateOutcome:
    value = None if cell is None else cell.value
    limit: float | None = gate.number
    if gate.relative:
        limit = None if baseline is None or baseline.value is None else gate.number * baseline.value
    passed = value is not None and limit is not None and bool(_SIGNS[gate.sign](value, limit))
    close = None
    if value is not None and limit is not None and cell is not None:
        error = cell.delta_stderr if gate.relative and cell.delta_stderr is not None else cell.stderr
        close = None if error is None else abs(value - limit) <= 2 * error
    return GateOutcome(
        gate=gate.text, checkpoint=name, key=gate.key, value=value, limit=limit, passed=passed, close=close
    )
