"""Gates: what a checkpoint must reach for ``python -m eval`` to end with exit code 0."""

import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from eval.errors import EvalError, unknown_name
from eval.results import Cell, GateOutcome, Row

FAILED = 1
"""Exit code where a gate is not passed."""
GATE_HELP = (
    "What every checkpoint but the first must reach, or the exit code is 1: "
    "needle>=0.95*baseline,ppl<=1.02*baseline,kv_bytes@512<=1MiB. A limit on a rate has its %: needle>=90%."
)
SHORT = {"ppl": "perplexity"}
_SIGNS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_GATE = re.compile(
    r"(?P<key>[^<>=*\s]+)\s*(?P<sign><=|>=|<|>)\s*(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)"
    r"(?P<unit>%|KiB|MiB|GiB)?"
    r"(?:\s*\*\s*(?P<relative>baseline))?"
)
_BYTES = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_NOTHING = Cell(value=None, stderr=None, interval=None, n=0, n_of="")


@dataclass(frozen=True)
class Gate:
    """One condition.

    Attributes:
        text: As it was written.
        key: Of a row of the table.
        sign: One of ``<=``, ``>=``, ``<``, ``>``.
        number: The limit, or the factor on the baseline's value.
        relative: Whether it is such a factor.
        unit: That the limit was given in, ``%`` or ``bytes``; empty for a bare number and for a factor.
    """

    text: str
    key: str
    sign: str
    number: float
    relative: bool
    unit: str = ""


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
        number, unit, relative = float(found["number"]), found["unit"] or "", found["relative"] is not None
        if relative and unit in _BYTES:
            raise EvalError(f"--gate {part!r}: a factor on the baseline is a number or %, not {unit}")
        if relative and unit:
            number, unit = number / 100, ""
        elif unit in _BYTES:
            number, unit = number * _BYTES[unit], "bytes"
        key = SHORT.get(found["key"], found["key"])
        gates.append(Gate(part, key, found["sign"], number, relative, unit))
    return gates


def check_gates(gates: Sequence[Gate], keys: Iterable[str]) -> None:
    """Refuse gates that nothing will be held against, before anything is measured.

    Args:
        gates: The conditions.
        keys: Patterns of the metrics that will be measured (``Measure.keys``).

    Raises:
        EvalError: a gate's metric matches none of them; the nearest is named.
    """
    known = list(keys)
    for gate in gates:
        if not any(fnmatchcase(gate.key, pattern) for pattern in known):
            raise EvalError("--gate: " + unknown_name("metric", gate.key, known))


def hold_gates(gates: Sequence[Gate], rows: Sequence[Row], names: Sequence[str]) -> list[GateOutcome]:
    """Hold every checkpoint but the first against every gate; the first too, if it is alone.

    Args:
        gates: The conditions.
        rows: The table.
        names: Checkpoints in order; the first is the baseline.

    Raises:
        EvalError: a gate names a number that was not measured, or gives its limit in another unit.
    """
    by_key = {row.key: row for row in rows}
    outcomes = []
    for gate in gates:
        if gate.key not in by_key:
            raise EvalError("--gate: " + unknown_name("metric", gate.key, list(by_key)))
        row = by_key[gate.key]
        _check_unit(gate, row)
        baseline = row.cells.get(names[0])
        outcomes += [_hold(gate, row.cells.get(name), baseline, name) for name in names[1:] or names]
    return outcomes


def _check_unit(gate: Gate, row: Row) -> None:
    """Refuse ``needle>=0.9``, which any rate from 0.9% on would pass, and limits in units of something else.

    Raises:
        EvalError: see above.
    """
    if gate.relative or gate.unit == row.unit or (not gate.unit and row.unit != "%"):
        return
    if row.unit == "%":
        said = f"a rate, whose limit has its %, such as {row.key}{gate.sign}90%"
    else:
        said = f"in {row.unit}" if row.unit else "a number without a unit"
    raise EvalError(f"--gate {gate.text!r}: {row.key} is {said}")


def _hold(gate: Gate, cell: Cell | None, baseline: Cell | None, name: str) -> GateOutcome:
    value, limit, error = _sides(gate, cell or _NOTHING, baseline or _NOTHING)
    passed, close = False, None
    if value is not None and limit is not None:
        passed = bool(_SIGNS[gate.sign](value, limit))
        close = None if error is None else abs(value - limit) <= 2 * error
    return GateOutcome(
        gate=gate.text, checkpoint=name, key=gate.key, value=value, limit=limit, passed=passed, close=close
    )


def _sides(gate: Gate, cell: Cell, baseline: Cell) -> tuple[float | None, float | None, float | None]:
    """What is held against what, and the error of the first."""
    if not gate.relative:
        return cell.value, gate.number, cell.stderr
    if cell.delta is None and cell.ratio is not None:
        # Both were timed in turns: the machine's mood is in the two values and not in their ratio.
        return cell.ratio, gate.number, cell.ratio_stderr
    limit = None if baseline.value is None else gate.number * baseline.value
    return cell.value, limit, cell.stderr if cell.delta_stderr is None else cell.delta_stderr
