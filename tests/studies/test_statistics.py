"""Statistics of studies against cases by hand and scipy's."""

from math import comb

import numpy as np
import pytest
from scipy import stats

from apo.studies.statistics import Outcomes, holm, mcnemar, outcomes, paired_bootstrap, spread


def test_the_spread_is_of_a_sample():
    assert (spread([1, 2, 6]).mean, spread([1, 2, 6]).sd) == (3, 7**0.5)
    assert spread([0.5]).sd is None
    with pytest.raises(ValueError, match="no seeds"):
        spread([])


def test_a_difference_that_never_varies_has_no_interval():
    found = paired_bootstrap(np.full((3, 50), 0.25))
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)


def test_the_interval_grows_with_the_spread_of_the_seeds():
    same = np.tile(np.arange(100) < 20, (3, 1)).astype(float)
    spread_out = np.stack([np.arange(100) < count for count in (5, 20, 35)]).astype(float)
    narrow, wide = paired_bootstrap(same), paired_bootstrap(spread_out)
    assert narrow.value == pytest.approx(wide.value) and wide.high - wide.low > 1.3 * (narrow.high - narrow.low)


def test_with_one_seed_the_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(1).normal(size=(1, 80))
    ours = paired_bootstrap(values)
    theirs = stats.bootstrap(
        (values[0],), np.mean, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.02) and ours.high == pytest.approx(theirs.high, abs=0.02)


def test_wins_ties_and_losses_are_counted_by_place():
    found = outcomes(np.array([[1, 1], [0, 0]]), np.array([[0, 1], [1, 0]]))
    assert found == Outcomes(win=1, tie=2, loss=1) and str(found) == "1/2/1"


def test_mcnemar_is_the_exact_binomial_test_of_what_does_not_tie():
    by_hand = 2 * sum(comb(10, k) for k in (0, 1)) / 2**10
    assert mcnemar(Outcomes(1, 500, 9)) == mcnemar(Outcomes(9, 0, 1)) == pytest.approx(by_hand)
    assert mcnemar(Outcomes(207, 972, 21)) == pytest.approx(stats.binomtest(207, 228).pvalue)
    assert mcnemar(Outcomes(0, 7, 0)) == 1


def test_holm_multiplies_the_smallest_most_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx(
        [0.03, 0.06, 0.06]
    )  # 3 x 0.01, then 2 x 0.03, then max(0.06, 0.04)
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
