from math import inf, isnan

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, norm
from scipy.stats import t as student

from apo.intervals import Interval, Z, mean_interval, wilson


@pytest.mark.parametrize("k, n", [(0, 10), (1, 29), (5, 10), (10, 10), (81, 263)])
def test_wilson_agrees_with_scipy(k, n):
    interval, reference = wilson(k, n), binomtest(k, n).proportion_ci(method="wilson")
    assert interval.value == k / n
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high), abs=1e-6)


def test_wilson_gives_a_known_value():
    """0 of n: (0, z² / (n + z²)); with n = 10 the upper limit is 3.8415 / 13.8415."""
    assert wilson(0, 10) == Interval(0, 0, pytest.approx(0.27753, abs=1e-5))


def test_wilson_mirrors_when_successes_and_failures_swap():
    a, b = wilson(3, 20), wilson(17, 20)
    assert (a.low, a.high) == pytest.approx((1 - b.high, 1 - b.low))


def test_wilson_stays_inside_the_unit_interval_and_around_the_value():
    for k in range(8):
        interval = wilson(k, 7)
        assert 0 <= interval.low < interval.high <= 1
        assert interval.low - 1e-12 <= interval.value <= interval.high + 1e-12


def test_z_is_the_normal_quantile():
    assert pytest.approx(norm.ppf(0.975), abs=1e-6) == Z


def test_a_mean_interval_agrees_with_scipys_bootstrap_and_with_students():
    x = np.random.default_rng(0).normal(5, 2, 400)
    interval = mean_interval(x)
    percentile = bootstrap((x,), np.mean, random_state=0, n_resamples=4000, method="percentile").confidence_interval
    assert interval.value == pytest.approx(x.mean())
    assert (interval.low, interval.high) == pytest.approx(tuple(percentile), abs=0.02)
    assert (interval.low, interval.high) == pytest.approx(
        student.interval(0.95, 399, x.mean(), x.std(ddof=1) / 20), abs=0.02
    )


@pytest.mark.parametrize(
    "values", [[0.1, 0.9], [1.0] * 5, [0.7] * 7, [0.0, 1.0, 1.0], [0.999, 1.0, 1.0, 0.2], [0.1] * 3 + [0.3], [0.5]]
)
def test_a_mean_interval_stays_inside_the_range_and_around_the_value(values):
    interval = mean_interval(values, 0.0, 1.0)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert (interval.low == interval.high) == (len(values) > 1 and len(set(values)) == 1)
    assert interval == mean_interval(values[::-1], 0.0, 1.0)


def test_few_values_have_a_wide_interval():
    assert vars(mean_interval([0.0, 2.0])) == {
        "value": 1.0,
        "low": 0.0,
        "high": 2.0,
    }  # all that resampling two values can say


def test_one_value_says_nothing_about_the_spread_and_none_says_nothing():
    assert mean_interval([3.0], 0.0) == Interval(3.0, 0.0, inf) and mean_interval([0.3], 0.0, 1.0) == Interval(
        0.3, 0.0, 1.0
    )
    assert all(isnan(x) for empty in (mean_interval([]), wilson(0, 0)) for x in vars(empty).values())
