"""From outcomes of single checkpoints to a table with differences from the baseline."""

from collections.abc import Mapping, Sequence

from eval.results import Cell, Metric, Outcome, Row
from eval.stats import mcnemar, paired_error, paired_interval


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
        for key in dict.fromkeys(key for found in metrics.values() for key in found):
            found = {name: its[key] for name, its in metrics.items() if key in its}
            first = next(iter(found.values()))
            baseline = found.get(names[0])
            cells = {}
            for name, metric in found.items():
                cells[name] = _cell(metric, None if name == names[0] else baseline, seed)
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


def _cell(metric: Metric, baseline: Metric | None, seed: int) -> Cell:
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
    if metric.per_sample and baseline.per_sample:
        pair = (metric.per_sample, baseline.per_sample)
        cell.delta_stderr = paired_error(*pair)
        cell.delta_interval = paired_interval(*pair, seed)
        cell.p_value = mcnemar(*pair)
    elif metric.stderr is not None and baseline.stderr is not None:
        cell.delta_stderr = (metric.stderr**2 + baseline.stderr**2) ** 0.5
    return cell
