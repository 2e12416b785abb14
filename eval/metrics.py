"""Metrics that are means of independent samples."""

from collections.abc import Sequence

from eval.results import Better, Metric
from eval.stats import mean, standard_error


def mean_metric(
    key: str,
    label: str,
    samples: Sequence[float],
    n_of: str,
    *,
    better: Better,
    unit: str = "",
    headline: bool = True,
) -> Metric:
    """The mean of samples with its standard error; arguments as the attributes of ``Metric``."""
    return Metric(
        key=key,
        label=label,
        unit=unit,
        value=mean(samples),
        stderr=standard_error(samples),
        n=len(samples),
        n_of=n_of,
        better=better,
        headline=headline,
        per_sample=list(samples),
    )


def mean_kl(key: str, label: str, samples: Sequence[float], n_of: str, headline: bool = True) -> Metric:
    """The mean of divergences, which nothing but rounding makes negative."""
    metric = mean_metric(key, label, samples, n_of, better="lower", unit="nats/token", headline=headline)
    return metric.model_copy(update={"value": max(0.0, mean(samples))})
