"""A metric sums up one column of measurements."""

from math import isnan

import pytest
import torch

from apo.evaluators.base import Mean, Proportion
from apo.intervals import mean_interval, wilson


def test_a_proportion_counts_what_is_true_and_forgets_at_reset():
    metric = Proportion(of="bad")
    metric.update({"bad": torch.tensor([True, False, True]), "other": torch.ones(3)})
    metric.update({"bad": torch.tensor([0, 1])})
    assert metric.compute() == wilson(3, 5)
    metric.reset()
    metric.update({"bad": torch.zeros(4, dtype=torch.bool)})
    assert metric.compute() == wilson(0, 4)


def test_a_mean_is_of_all_batches_and_its_interval_stays_in_the_range():
    metric = Mean(of="speed", least=0.0)
    metric.update({"speed": torch.tensor([0.0, 1.0])})
    metric.update({"speed": torch.tensor([2.0])})
    interval = metric.compute()
    assert interval == mean_interval([0.0, 1.0, 2.0], 0.0)
    assert interval.value == pytest.approx(1.0) and 0 <= interval.low < 1 < interval.high <= 2
    assert isnan(Mean(of="speed").compute().value)


def test_one_value_says_nothing_about_the_spread():
    metric = Mean(of="likeness", least=0.0, most=1.0)
    metric.update({"likeness": torch.tensor([0.5]), "speed": torch.tensor([9.0])})
    assert vars(metric.compute()) == {"value": 0.5, "low": 0.0, "high": 1.0}
