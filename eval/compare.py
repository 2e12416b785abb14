"""From outcomes of single checkpoints to a table with differences from the baseline."""

from collections.abc import Sequence

from eval.results import Cell, Metric, Outcome, Row
from eval.stats import mean, paired_error, standard_error


def rows_of(outcomes: dict[str, dict[str, Outcome]], names: Sequence[str]) -> list[Row]:
    """One row per metric key, in the order of the measures and of first appearance.

    Args:
        outcomes: By measure and checkpoint name.
        names: Checkpoints in order; the first is the baseline.
    """
    rows = []
    for measure, by_name in outcomes.items():
        metrics = {name: {metric.key: metric for metric in by_name[name].metrics} for name in names}
        base = metrics[names[0]]
        for key in dict.fromkeys(key for name in names for key in metrics[name]):
            found = {name: metrics[name][key] for name in names if key in metrics[name]}
            first = next(iter(found.values()))
            rows.append(
                Row(
                    measure=measure,
                    key=key,
                    label=first.label,
                    unit=first.unit,
                    better=first.better,
                    headline=first.headline,
                    cells={
                        name: _cell(
                            metric,
                            None if name == names[0] else base.get(key) or _same_part(metric, base),
                            paired=by_name[name].read == by_name[names[0]].read,
                        )
                        for name, metric in found.items()
                    },
                )
            )
    return rows


def _same_part(metric: Metric, base: dict[str, Metric]) -> Metric | None:
    """What the baseline has on the samples of a metric that is part of another."""
    whole = None if metric.part_of is None else base.get(metric.part_of)
    if (
        whole is None
        or whole.per_sample is None
        or not metric.part
        or max(metric.part) >= len(whole.per_sample)
    ):
        return None
    values = [whole.per_sample[sample] for sample in metric.part]
    changed = {
        "value": mean(values),
        "stderr": standard_error(values),
        "per_sample": values,
        "n": len(values),
    }
    return whole.model_copy(update=changed)


def _cell(metric: Metric, baseline: Metric | None, paired: bool) -> Cell:
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
        cell.delta_stderr = paired_error(metric.per_sample, baseline.per_sample)
    elif metric.stderr is not None and baseline.stderr is not None:
        cell.delta_stderr = (metric.stderr**2 + baseline.stderr**2) ** 0.5
    return cell
