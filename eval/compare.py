"""From outcomes of single checkpoints to a table with differences from the baseline."""

from collections.abc import Mapping, Sequence

from eval.results import Cell, Metric, Outcome, Row
from eval.stats import mcnemar, mean, paired_error, paired_interval, standard_error


def rows_of(outcomes: Mapping[str, Mapping[str, Outcome]], names: Sequence[str], seed: int = 0) -> list[Row]:
    """One row per metric key, in the order of the measures and of first appearance.

    Args:
        outcomes: By measure and checkpoint name; a checkpoint that was not measured is absent.
        names: Checkpoints in order; the first is the baseline.
        seed: For resampling.
    """
    rows = []
    for measure, by_name in outcomes.items():
        metrics = {
            name: {metric.key: metric for metric in by_name[name].metrics}
            for name in names
            if name in by_name
        }
        base = metrics.get(names[0], {})
        for key in dict.fromkeys(key for found in metrics.values() for key in found):
            found = {name: its[key] for name, its in metrics.items() if key in its}
            first = next(iter(found.values()))
            cells = {}
            for name, metric in found.items():
                other = None if name == names[0] else _counterpart(metric, base)
                paired = names[0] in by_name and by_name[name].read == by_name[names[0]].read
                cells[name] = _cell(metric, other, paired, seed)
                if by_name[name].samples:
                    cells[name].samples = f"samples/{name}/{measure}.jsonl"
            rows.append(
                Row(
                    measure=measure,
                    key=key,
                    label=first.label,
                    unit=first.unit,
                    better=first.better,
                    headline=first.headline,
                    cells=cells,
                )
            )
    return rows


def _counterpart(metric: Metric, base: Mapping[str, Metric]) -> Metric | None:
    """What the baseline has on the metric's samples.

    Its own metric of the same key is over other samples where the metric is part of another: which documents
    lie beyond a window depends on the window.
    """
    if metric.part_of is None:
        return base.get(metric.key)
    whole = base.get(metric.part_of)
    if whole is None or not whole.per_sample or not metric.part or max(metric.part) >= len(whole.per_sample):
        return None
    values = [whole.per_sample[sample] for sample in metric.part]
    return whole.model_copy(
        update={"value": mean(values), "stderr": standard_error(values), "per_sample": values}
    )


def _cell(metric: Metric, baseline: Metric | None, paired: bool, seed: int) -> Cell:
    """The metric, with its difference from the baseline's where there is one."""
    cell = Cell(
        value=metric.value, stderr=metric.stderr, interval=metric.interval, n=metric.n, n_of=metric.n_of
    )
    if baseline is None or baseline.value is None or metric.value is None:
        return cell
    if metric.paired_ratio is not None:
        cell.ratio, cell.ratio_stderr = metric.paired_ratio, metric.paired_ratio_stderr
        return cell
    cell.delta = metric.value - baseline.value
    cell.ratio = metric.value / baseline.value if baseline.value else None
    if paired and metric.per_sample and baseline.per_sample:
        pair = (metric.per_sample, baseline.per_sample)
        cell.delta_stderr = paired_error(*pair)
        cell.delta_interval = paired_interval(*pair, seed)
        cell.p_value = mcnemar(*pair)
    elif metric.stderr is not None and baseline.stderr is not None:
        cell.delta_stderr = (metric.stderr**2 + baseline.stderr**2) ** 0.5
    return cell
