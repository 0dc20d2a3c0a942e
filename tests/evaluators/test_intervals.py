from math import inf, isnan

import pytest
import torch
from scipy.stats import binomtest, bootstrap, norm

from apo.evaluators.intervals import Interval, Z, mean_interval, wilson


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


def test_a_mean_interval_agrees_with_the_bootstrap():
    x = torch.randn(400, generator=torch.Generator().manual_seed(0)).double() * 2 + 5
    interval = mean_interval(len(x), float(x.sum()), float(x.square().sum()))
    reference = bootstrap((x.numpy(),), lambda a, axis: a.mean(axis), random_state=0, n_resamples=4000).confidence_interval
    assert interval.value == pytest.approx(float(x.mean()))
    assert (interval.low, interval.high) == pytest.approx(tuple(reference), abs=0.02)


def test_a_mean_interval_of_two_values_uses_students_quantile():
    interval = mean_interval(2, 2.0, 4.0)  # the values 0 and 2
    assert (interval.low, interval.high) == pytest.approx((1 - 12.7062, 1 + 12.7062), abs=1e-4)


def test_one_value_says_nothing_about_the_spread_and_none_says_nothing():
    assert mean_interval(1, 3.0, 9.0) == Interval(3.0, -inf, inf)
    assert all(isnan(x) for empty in (mean_interval(0, 0.0, 0.0), wilson(0, 0)) for x in vars(empty).values())
