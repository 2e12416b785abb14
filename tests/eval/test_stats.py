"""Errors of means, rates and differences."""

import statistics

import numpy as np
import pytest

from eval.compare import rows_of
from eval.report.wording import judge
from eval.results import Metric, Outcome
from eval.stats import (
    by_group,
    mcnemar,
    median,
    paired_error,
    paired_interval,
    rate_error,
    ratio_samples,
    standard_error,
    wilson,
)


def test_standard_error_is_that_of_the_mean() -> None:
    values = [1.0, 4.0, 2.0, 8.0]
    assert standard_error(values) == pytest.approx(statistics.stdev(values) / 2)
    assert standard_error([1.0]) is None
    assert median(values) == 3.0


def test_wilson_is_sensible_at_the_ends() -> None:
    low, high = wilson(0, 20)
    assert low == 0.0 and high == pytest.approx(0.161, abs=2e-3)
    low, high = wilson(20, 20)
    assert high == 1.0 and low == pytest.approx(0.839, abs=2e-3)
    low, high = wilson(10, 20)
    assert (low + high) / 2 == pytest.approx(0.5)
    assert rate_error(10, 20) == pytest.approx((0.25 / 20) ** 0.5)


def test_differences_are_paired() -> None:
    easy_and_hard = [1.0, 5.0, 9.0]
    assert paired_error([value + 0.5 for value in easy_and_hard], easy_and_hard) == pytest.approx(0.0)
    assert paired_error([1.0], easy_and_hard) is None

    def outcome(shift: float) -> Outcome:
        values = [value + shift for value in easy_and_hard]
        metric = Metric(
            key="m",
            label="m",
            value=5.0 + shift,
            stderr=standard_error(values),
            n=3,
            n_of="x",
            per_sample=values,
        )
        return Outcome(metrics=[metric])

    (row,) = rows_of({"measure": {"a": outcome(0.0), "b": outcome(0.5)}}, ["a", "b"])
    assert row.cells["b"].delta == pytest.approx(0.5)
    assert row.cells["b"].delta_stderr == pytest.approx(0.0)
    assert row.cells["a"].delta is None


def test_values_of_a_group_count_together() -> None:
    assert by_group([1.0, 2.0, 4.0], [5, 1, 3]) == pytest.approx([1.0, 2.0, 4.0])
    values, groups = [1.0, 2.0, 3.0, 5.0, 9.0], [0, 0, 1, 2, 2]
    samples = by_group(values, groups)
    assert statistics.mean(samples) == pytest.approx(4.0)
    sums = [-5.0, -1.0, 6.0]
    cluster_robust = (3 / 2 * sum(each**2 for each in sums) / 5**2) ** 0.5
    assert standard_error(samples) == pytest.approx(cluster_robust)
    twice = by_group([*values, *values], [0, 1, 2, 3, 4, 0, 1, 2, 3, 4])
    assert standard_error(twice) == pytest.approx(standard_error(values))


def test_a_ratio_of_sums_has_the_error_of_the_delta_method() -> None:
    above, below = [2.0, 3.0, 7.0], [1.0, 2.0, 3.0]
    samples = ratio_samples(above, below)
    assert statistics.mean(samples) == pytest.approx(2.0)
    residuals = [0.0, -1.0, 1.0]
    assert standard_error(samples) == pytest.approx((sum(r**2 for r in residuals) / 2 / 3) ** 0.5 / 2.0)
    assert standard_error(ratio_samples([2.0, 4.0], [1.0, 2.0])) == pytest.approx(0.0)


def test_samples_pair_up_only_where_both_read_the_same() -> None:
    def outcome(read: str) -> Outcome:
        values = [1.0, 5.0, 9.0]
        metric = Metric(key="m", label="m", value=5.0, stderr=2.0, n=3, n_of="x", per_sample=values)
        return Outcome(metrics=[metric], read=read)

    outcomes = {"a": outcome("x"), "b": outcome("x"), "c": outcome("y")}
    (row,) = rows_of({"measure": outcomes}, ["a", "b", "c"])
    assert row.cells["b"].delta_stderr == pytest.approx(0.0)
    assert row.cells["c"].delta_stderr == pytest.approx(8**0.5)


def test_the_paired_bootstrap_covers_the_difference_it_should() -> None:
    chance = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        hard = chance.normal(0, 5, 40)
        low, high = paired_interval((hard + chance.normal(0.5, 1, 40)).tolist(), hard.tolist(), trial) or (
            0,
            0,
        )
        assert high - low < 1.5, "hard samples are hard for both"
        covered += low <= 0.5 <= high
    assert 180 <= covered <= 200
    assert paired_interval([1.0, 2.0], [1.0, 2.0, 3.0], 0) is None
    assert paired_interval([1.0], [2.0], 0) is None


def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ() -> None:
    baseline = [100.0] * 50 + [0.0] * 50
    values = [0.0] * 9 + [100.0] * 41 + [100.0] + [0.0] * 49
    assert mcnemar(values, baseline) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(baseline, baseline) == 1.0
    assert mcnemar([0.1, 0.2, 0.3], [0.1, 0.2, 0.4]) is None
    assert mcnemar([0.0], [0.0, 100.0]) is None
    assert mcnemar([1.0, 0.0, 1.0], [0.0, 0.0, 1.0]) == 1.0


@pytest.mark.parametrize("pair", [(3.0, 7.0), (0.0, 50.0), (1.0, 100.0)])
def test_two_values_alone_do_not_make_right_and_wrong(pair: tuple[float, float]) -> None:
    assert mcnemar([pair[0]] * 9 + [pair[1]], [pair[1]] * 10) is None


def test_a_few_lucky_samples_are_not_called_a_difference() -> None:
    def outcome(hits: int) -> Outcome:
        values = [100.0] * hits + [0.0] * (20 - hits)
        return Outcome(
            metrics=[
                Metric(
                    key="m",
                    label="m",
                    value=5.0 * hits,
                    n=20,
                    n_of="x",
                    unit="%",
                    better="higher",
                    per_sample=values,
                )
            ]
        )

    outcomes = {"measure": {"a": outcome(10), "b": outcome(13), "c": outcome(18)}}
    (row,) = rows_of(outcomes, ["a", "b", "c"])
    assert row.cells["b"].p_value == pytest.approx(0.25)
    assert [judge(row, row.cells[name]) for name in "abc"] == ["same", "same", "better"]
