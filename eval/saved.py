"""Evaluations that were made before, put side by side: ``python -m eval compare DIR DIR --output DIR``."""

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from eval.compare import rows_of
from eval.errors import EvalError
from eval.measures import MEASURES
from eval.record import tokenizer_warnings
from eval.results import Outcome, Results
from eval.store import Store


def compare_saved(folders: Sequence[str | Path], output: str | Path, command: str) -> Results:
    """The checkpoints of several evaluations in one table; nothing is measured.

    The first checkpoint of the first folder is the baseline. A checkpoint that is in several folders is taken
    from the first that has it. Only the outcomes that a folder's ``results.json`` tells of count, not what
    else is stored there.

    Args:
        folders: What ``python -m eval`` wrote; at least one.
        output: Where the results will be written, for the links to samples.
        command: Noted in the results.

    Raises:
        EvalError: a folder has no results, or results that cannot stand in one table: made from another text,
            with another seed, dtype or other settings of a measure, or of other weights by the same name.
    """
    saved = [(Path(folder), _read(Path(folder))) for folder in folders]
    first = saved[0][1]
    records = {record.name: record for record in first.checkpoints}
    outcomes: dict[str, dict[str, Outcome]] = {name: {} for _, each in saved for name in each.measures}
    homes: dict[tuple[str, str], Path] = {}
    warnings = [line for _, each in saved for line in each.warnings]
    for folder, results in saved:
        _check_alike(folder, results, first)
        warnings += _surroundings(folder, results, saved[0][0], first)
        store = Store(folder)
        for record in results.checkpoints:
            if records.setdefault(record.name, record).digest != record.digest:
                raise EvalError(f"{folder}: its {record.name!r} has other weights than that of {folders[0]}")
            for measure in results.measures:
                key = results.keys[measure].get(record.name)
                if not key or record.name in outcomes[measure]:
                    continue
                outcome = store.get(record.name, measure, key)
                if outcome is None:
                    warnings.append(
                        f"{record.name}: {measure} is left out: {store.folder} no longer holds what "
                        f"{folder / 'results.json'} tells of"
                    )
                    continue
                same_baseline = results.checkpoints[0].digest == first.checkpoints[0].digest
                if (
                    MEASURES[measure].uses_baseline
                    and not same_baseline
                    and record is not first.checkpoints[0]
                ):
                    warnings.append(f"{record.name}: {measure} is left out: it was against another baseline")
                    continue
                outcomes[measure][record.name] = outcome
                homes[measure, record.name] = folder
    names = list(records)
    for measure, by_name in outcomes.items():
        if MEASURES[measure].compares_only:
            by_name.setdefault(names[0], Outcome(metrics=[]))
    rows = rows_of(outcomes, names, first.seed)
    for row in rows:
        for name, cell in row.cells.items():
            if cell.samples:
                cell.samples = os.path.relpath(homes[row.measure, name] / cell.samples, output)
    warnings += tokenizer_warnings(records.values())
    return first.model_copy(
        update={
            # One folder alone is the same evaluation, written again.
            "command": command if len(folders) > 1 else first.command,
            "gates": [] if len(folders) > 1 else first.gates,
            "checkpoints": list(records.values()),
            "measures": {name: MEASURES[name].how for name in outcomes},
            "rows": rows,
            "details": {
                name: {who: outcome.detail for who, outcome in by_name.items()}
                for name, by_name in outcomes.items()
            },
            "warnings": list(dict.fromkeys(warnings)),
            "keys": {
                name: {who: outcome.key for who, outcome in by.items()} for name, by in outcomes.items()
            },
            "missing": [
                f"{name}: {measure}"
                for name in names
                for measure in outcomes
                if name not in outcomes[measure]
            ],
            "wall_s": {
                name: {who: outcome.wall_s for who, outcome in by.items()} for name, by in outcomes.items()
            },
        }
    )


def _read(folder: Path) -> Results:
    path = folder / "results.json"
    try:
        results = Results.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvalError(
            f"{folder} has no results.json: {error.strerror}; give folders of python -m eval"
        ) from None
    except ValidationError as error:
        raise EvalError(
            f"{path} is not of this version of Headroom ({error.error_count()} fields do not fit); run the "
            "evaluation again, which measures only what is new"
        ) from None
    if results.keys.keys() != results.measures.keys():
        raise EvalError(
            f"{path} does not say what its numbers were made from (keys): run the evaluation again"
        )
    if not Store(folder).folder.is_dir():
        raise EvalError(
            f"{folder} has no measurements of its own, perhaps because compare wrote it: give the folders of "
            "the evaluations"
        )
    return results


def _documents(results: Results) -> dict[str, str]:
    """Where the documents of every lm-eval task came from, with the digest of a local file."""
    details = results.details.get("tasks", {}).values()
    return {task: how["data"] for detail in details for task, how in detail.get("tasks", {}).items()}


def _check_alike(folder: Path, results: Results, first: Results) -> None:
    """Refuse what was measured otherwise: its samples would not pair up."""
    here, there = _documents(results), _documents(first)
    for what, mine, others in (
        ("text", results.text["digest"], first.text["digest"]),
        ("seed", results.seed, first.seed),
        ("dtype", results.environment["dtype"], first.environment["dtype"]),
        *(
            (f"settings of {name}", results.suite.get(name), first.suite.get(name))
            for name in results.measures
            if name in first.measures
        ),
        *((f"documents of {task}", here[task], there[task]) for task in here.keys() & there.keys()),
    ):
        if mine != others:
            raise EvalError(f"{folder}: its {what} differ from the first folder's: {mine} against {others}")


def _surroundings(folder: Path, results: Results, baseline: Path, first: Results) -> list[str]:
    """What else than the checkpoints may be behind a difference."""
    pairs = {
        what: (results.environment.get(what), first.environment.get(what))
        for what in ("device", "cpu", "torch", "transformers", "lm_eval")
    }
    unlike = [f"{what} {mine} against {other}" for what, (mine, other) in pairs.items() if mine != other]
    return [f"{folder} was measured otherwise than {baseline}: {', '.join(unlike)}"] if unlike else []
