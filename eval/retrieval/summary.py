"""From answered documents to rates, with what makes them say less than they seem to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.memory import CacheShape
from eval.results import Metric
from eval.retrieval.document import Document, Region
from eval.retrieval.kind import Condition, Kind
from eval.retrieval.scoring import exact
from eval.stats import mean, rate_error, standard_error, wilson

_REGIONS: dict[Region, str] = {
    "beyond": "beyond the window",
    "sinks": "in the sinks",
    "within": "within the window",
}
_CONTROLS: dict[Condition, str] = {
    "inside": "Control: {} beside the question",
    "removed": "Control: {} removed",
}
ABLE = 0.9
"""Share of the control beside the question from which a model is said to be able to do what is asked."""


@dataclass(frozen=True)
class Answered:
    """A document, the answer of the model, and the share of the values in it."""

    document: Document
    answer: str
    score: float


def rates(kind: Kind, answered: Sequence[Answered], shape: CacheShape, alone: bool) -> list[Metric]:
    """The rate of a kind, of its controls, and of its parts by where the evidence stands."""
    hidden = [each for each in answered if each.document.condition == "depth"]
    metrics = [rate_of(kind.name, kind.title, [each.score for each in hidden], True)]
    for condition, label in _CONTROLS.items():
        scores = [each.score for each in answered if each.document.condition == condition]
        what = "needle" if kind.name == "needle" else f"{kind.name}, evidence"
        metrics.append(rate_of(f"{kind.name}_{condition}", label.format(what), scores, alone))
    if all(value.isdigit() for each in hidden for value in each.document.values):
        scores = [float(exact(each.answer, each.document.values)) for each in hidden]
        metrics.append(rate_of(f"{kind.name}_exact", f"{kind.title}, no digit more or less", scores, False))
    for region, where in _REGIONS.items():
        part = [
            index
            for index, each in enumerate(hidden)
            if each.document.region(shape.window, shape.sinks) == region
        ]
        if part:
            rate = rate_of(
                f"{kind.name}_{region}",
                f"{kind.title}, {where}",
                [hidden[index].score for index in part],
                False,
            )
            metrics.append(rate.model_copy(update={"part_of": kind.name, "part": part}))
    return metrics


def rate_of(key: str, label: str, scores: Sequence[float], headline: bool) -> Metric:
    """A rate in percent, from shares of 0 to 1."""
    n, rate = len(scores), mean(scores)
    low, high = wilson(sum(scores), n)
    whole = all(score in (0.0, 1.0) for score in scores)
    stderr = rate_error(round(sum(scores)), n) if whole else standard_error(scores)
    return Metric(
        key=key,
        label=label,
        value=100 * rate,
        stderr=None if stderr is None else 100 * stderr,
        interval=(100 * low, 100 * high),
        n=n,
        n_of="documents",
        unit="%",
        better="neither" if key.endswith("_removed") else "higher",
        headline=headline,
        per_sample=[100.0 * score for score in scores],
    )


def cells(answered: Sequence[Answered], shape: CacheShape) -> list[dict[str, Any]]:
    """Sums by condition, length and depth, with how many documents have their evidence in which region."""
    cells: dict[tuple[str, int, float | None], dict[str, Any]] = {}
    for each in answered:
        document = each.document
        where = (document.condition, document.length, document.depth)
        cell = cells.setdefault(
            where,
            {"condition": where[0], "length": where[1], "depth": where[2], "n": 0, "found": 0.0}
            | dict.fromkeys(_REGIONS, 0),
        )
        cell["n"] += 1
        cell["found"] += each.score
        region = document.region(shape.window, shape.sinks)
        if region is not None:
            cell[region] += 1
    return list(cells.values())


def sample(each: Answered, shape: CacheShape) -> dict[str, Any]:
    """A document and its answer, as it is written down."""
    document = each.document
    return {
        "kind": document.kind,
        "condition": document.condition,
        "length": document.length,
        "depth": document.depth,
        "evidence": document.evidence,
        "distance": document.distance,
        "region": document.region(shape.window, shape.sinks),
        "question": document.question,
        "values": document.values,
        "answer": each.answer,
        "found": each.score,
    }


def warnings(name: str, kinds: Sequence[Kind], answered: Sequence[Answered], shape: CacheShape) -> list[str]:
    """What makes the rates say less than they seem to, each said once for all kinds.

    Args:
        name: Of the checkpoint.
    """
    unable, unharmed, outside = [], [], []
    for kind in kinds:
        chosen = [each for each in answered if each.document.kind == kind.name]
        beside = [each for each in chosen if each.document.condition == "inside"]
        hits = sum(each.score for each in beside)
        if hits < ABLE * len(beside):
            unable.append(f"{kind.name} {hits:.3g} of {len(beside)}")
        if shape.window is None:
            continue
        if not any(each.document.region(shape.window, shape.sinks) == "beyond" for each in chosen):
            unharmed.append(kind.name)
        needed = max(each.document.distance or 0 for each in beside)
        if needed > shape.window:
            outside.append(f"{kind.name} {needed}")
    said = {
        "limited by the model, not only by its cache: so few are answered with the evidence beside the "
        "question": unable,
        f"all evidence lies within its window of {shape.window} tokens or its sinks, which says nothing "
        "about what it forgets: give longer --lengths": unharmed,
        f"even beside the question the evidence needs more tokens than its window of {shape.window}": outside,
    }
    return [f"{name}: retrieval ({', '.join(found)}): {what}" for what, found in said.items() if found]
