from math import isnan

import pytest

from apo.evaluators.dynamics import DynamicDegree, MotionSmoothness


def test_dynamic_degree_is_the_mean_speed(measured):
    metric = DynamicDegree()
    metric.update(measured(2, speed=[0.0, 1.0]))
    metric.update(measured(1, speed=[2.0]))
    interval = metric.compute()
    assert interval.value == pytest.approx(1.0)
    assert 0 <= interval.low < 1 < interval.high <= 2
    assert isnan(DynamicDegree().compute().value)


def test_smoothness_is_the_mean_smoothness(measured):
    metric = MotionSmoothness()
    metric.update(measured(4, motion_smoothness=[1.0, 1.0, 0.5, 0.5]))
    assert metric.compute().value == pytest.approx(0.75)
